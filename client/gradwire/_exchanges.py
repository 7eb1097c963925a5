"""The conversations behind the methods of clients and sessions, each written once for both kinds.

Every function returns an `Exchange`: a generator that yields requests, takes their answers, and
ends in the result. A client performs it, with or without `await`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from gradwire import errors
from gradwire._protocol import Answer, Exchange, Request, idempotency_key, segment
from gradwire._values import InputLike, Literal, as_tensor, by_name, input_specs, plain
from gradwire.wire.errors import WireError
from gradwire.wire.tensors import decode_tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradwire.wire.messages import (
        JvpAvailability,
        OpDocument,
        Ref,
        SessionDocument,
        SessionList,
        ValueDocument,
    )
    from gradwire.wire.tensors import Array

__all__ = [
    "Groups",
    "create",
    "declare",
    "delete",
    "execute",
    "fork",
    "jvp_availability",
    "limits",
    "op",
    "ops",
    "page",
    "perform_run",
    "read",
    "transform",
    "value",
    "value_data",
]

T = TypeVar("T")
Groups = dict[str, "dict[str, Array]"]


def create(inputs: Mapping[str, InputLike], name: str | None) -> Exchange[SessionDocument]:
    """A new session."""
    return _created("/v1/sessions", _named({"inputs": input_specs(inputs)}, name))


def fork(sid: str, version: int | None, name: str | None) -> Exchange[SessionDocument]:
    """A new session that begins as another one was."""
    origin = {"session": sid, **({} if version is None else {"version": version})}
    return _created("/v1/sessions", _named({"from": origin}, name))


def transform(
    sid: str,
    document: Mapping[str, object],
    inputs: Mapping[str, Array],
    name: str | None,
    *,
    binary: bool,
) -> Exchange[SessionDocument]:
    """A new session that holds a derived graph."""
    tensors = {f"inputs/{key}": array for key, array in inputs.items()}
    path = f"{_session(sid)}/transforms"
    return _created(path, _named(document, name), tensors, binary=binary)


def read(sid: str, since: int | None = None) -> Exchange[SessionDocument]:
    """A session, or what is new in it since a version."""
    query = {} if since is None else {"since": str(since)}
    answer = yield Request("GET", _session(sid), query=query)
    return cast("SessionDocument", answer.document)


def page(cursor: str | None, limit: int | None = None) -> Exchange[SessionList]:
    """One page of the caller's sessions."""
    query = {} if cursor is None else {"cursor": cursor}
    if limit is not None:
        query["limit"] = str(limit)
    answer = yield Request("GET", "/v1/sessions", query=query)
    return cast("SessionList", answer.document)


def delete(sid: str) -> Exchange[None]:
    """The end of a session."""
    yield Request("DELETE", _session(sid))


def declare(sid: str, outputs: Mapping[str, object]) -> Exchange[dict[str, int]]:
    """A session's outputs, and their ids."""
    path = f"{_session(sid)}/outputs"
    answer = yield Request("PUT", path, {"outputs": dict(outputs)})
    return cast("dict[str, dict[str, int]]", answer.document)["outputs"]


def value(sid: str, ref: int | str, shape: Sequence[int] | None) -> Exchange[ValueDocument]:
    """One value, its shape checked if one is given."""
    query = {} if shape is None else {"shape": ",".join(map(str, shape))}
    answer = yield Request("GET", f"{_session(sid)}/values/{segment(str(ref))}", query=query)
    return cast("ValueDocument", answer.document)


def value_data(sid: str, ref: int | str) -> Exchange[Array]:
    """The array behind a const."""
    path = f"{_session(sid)}/values/{segment(str(ref))}/data"
    answer = yield Request("GET", path, binary_answer=True)
    if answer.tensors:
        return next(iter(answer.tensors.values()))
    return _decode(answer.document, "data")


def jvp_availability(sid: str) -> Exchange[JvpAvailability]:
    """Whether a session's graph has a forward mode."""
    answer = yield Request("GET", f"{_session(sid)}/jvp-availability")
    return cast("JvpAvailability", answer.document)


def limits() -> Exchange[dict[str, float | None]]:
    """The limits in force."""
    answer = yield Request("GET", "/v1/limits")
    return cast("dict[str, float | None]", answer.document)


def ops() -> Exchange[list[OpDocument]]:
    """The catalogue."""
    answer = yield Request("GET", "/v1/ops")
    return cast("dict[str, list[OpDocument]]", answer.document)["ops"]


def op(name: str) -> Exchange[OpDocument]:
    """One op of the catalogue."""
    answer = yield Request("GET", f"/v1/ops/{segment(name)}")
    return cast("OpDocument", answer.document)


def perform_run(
    path: str,
    document: Mapping[str, object],
    tensors: Mapping[str, Array],
    *,
    binary: bool,
    sources: tuple[str | None, ...] = (),
) -> Exchange[Groups]:
    """A run, and its results by group (`outputs`, `gradients`, `tangents`) and name."""
    answer = yield Request(
        "POST", path, document, tensors, binary=binary, binary_answer=binary, sources=sources
    )
    return _groups(answer)


def execute(
    inputs: Mapping[str, InputLike],
    nodes: Sequence[Mapping[str, object]],
    outputs: Mapping[str, Ref] | None,
    run: Mapping[str, object],
    feeds: Mapping[str, Mapping[str, ArrayLike] | None],
    *,
    binary: bool,
) -> Exchange[Groups]:
    """A whole graph and its run."""
    specs = input_specs(inputs)
    dtypes = {spec["name"]: spec.get("dtype") for spec in specs}
    tensors: dict[str, Array] = {}
    for group, values in feeds.items():
        for name, value in by_name(group, values or {}).items():
            dtype = dtypes.get(name) if group != "cotangents" else None
            tensors[f"run/{group}/{name}"] = as_tensor(value, dtype, f"{group}[{name!r}]")
    entries: list[dict[str, object]] = []
    for k, entry in enumerate(nodes):
        attrs = cast("Mapping[str, object]", entry.get("attrs") or {})
        literals = {n: a.array for n, a in attrs.items() if isinstance(a, Literal)}
        tensors |= {f"nodes/{k}/attrs/{name}": array for name, array in literals.items()}
        rest = {name: plain(a) for name, a in attrs.items() if name not in literals}
        entries.append({**entry, "attrs": rest})
    document: dict[str, object] = {"inputs": specs, "nodes": entries, "run": dict(run)}
    if outputs is not None:
        document["outputs"] = dict(outputs)
    return perform_run("/v1/execute", document, tensors, binary=binary)


# -- parts -----------------------------------------------------------------------------------------


def _session(sid: str) -> str:
    return f"/v1/sessions/{segment(sid)}"


def _named(document: Mapping[str, object], name: str | None) -> dict[str, object]:
    return {**document, **({} if name is None else {"name": name})}


def _created(
    path: str,
    document: Mapping[str, object],
    tensors: Mapping[str, Array] | None = None,
    *,
    binary: bool = False,
) -> Exchange[SessionDocument]:
    answer = yield Request(
        "POST", path, document, tensors or {}, binary=binary, headers=idempotency_key()
    )
    return cast("SessionDocument", answer.document)


def _groups(answer: Answer) -> Groups:
    groups: Groups = {}
    document = answer.document
    if isinstance(document, dict):
        for group, members in cast("dict[str, dict[str, object]]", document).items():
            groups[group] = {n: _decode(t, f"{group}/{n}") for n, t in members.items()}
    for path, array in answer.tensors.items():
        group, _, name = path.partition("/")
        groups.setdefault(group, {})[name] = array
    return groups


def _decode(document: object, path: str) -> Array:
    try:
        return decode_tensor(document, path, dtype=None, shape=None)
    except WireError as error:
        raise errors.UnexpectedAnswer(f"the answer cannot be read: {error.detail}") from None
