"""The conversations behind the methods of clients and sessions, each written once for both kinds.

Every function returns an `Exchange`: a generator that yields requests, takes their answers, and
ends in the result. A client performs it, with or without `await`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from gradwire import errors
from gradwire._protocol import Answer, Exchange, Request, idempotency_key, segment
from gradwire._values import (
    InputLike,
    Literal,
    Reference,
    as_sent,
    by_name,
    input_specs,
    plain,
    tensor_name,
)
from gradwire.wire.errors import WireError
from gradwire.wire.messages import TENSOR_GROUPS
from gradwire.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from gradwire._values import Refer, Sent, TensorLike
    from gradwire.wire.messages import (
        JvpAvailability,
        OpDocument,
        Ref,
        ResidentDocument,
        ResidentList,
        SessionDocument,
        SessionList,
        ValueDocument,
    )
    from gradwire.wire.tensors import Array

__all__ = [
    "Groups",
    "Store",
    "create",
    "declare",
    "delete",
    "delete_tensor",
    "execute",
    "fork",
    "has_tensor",
    "jvp_availability",
    "limits",
    "op",
    "ops",
    "page",
    "perform_run",
    "put_tensor",
    "read",
    "stored_names",
    "tensor_data",
    "tensor_info",
    "tensor_page",
    "transform",
    "value",
    "value_data",
]

T = TypeVar("T")
Groups = dict[str, "dict[str, Array]"]
Store: TypeAlias = "Mapping[str, str | Reference]"
"""Results that become resident tensors: names, or tensors to replace, by path (`outputs/w`)."""


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
    inputs: Mapping[str, Sent],
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
    return _lone_tensor((yield Request("GET", path, binary_answer=True)))


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
    tensors: Mapping[str, Sent],
    *,
    binary: bool,
    refer: Refer,
    store: Store | None = None,
) -> Exchange[Groups]:
    """A run, and its results by group (`outputs`, `gradients`, `tangents`) and name.

    Those that `store` names by path become resident tensors; in their place are references.
    """
    names = stored_names(store)
    answer = yield Request(
        "POST",
        path,
        _with_store(document, names),
        tensors,
        binary=binary,
        binary_answer=binary,
        # Run twice, a step that reads what it stores would be made twice.
        repeatable=not names,
    )
    groups = _groups(answer)
    for where, name in names.items():
        group, _, key = where.partition("/")
        groups.setdefault(group, {})[key] = cast("Array", refer(name))
    return groups


def stored_names(store: Store | None) -> dict[str, str]:
    """The names of the resident tensors that results become, by the results' paths."""
    named = by_name("results to store", store or {}, "'w'").items()
    return {
        path: to.name if isinstance(to, Reference) else tensor_name(to, f"store[{path!r}]")
        for path, to in named
    }


def _with_store(document: Mapping[str, object], names: Mapping[str, str]) -> Mapping[str, object]:
    if not names:
        return document
    run = document.get("run")
    if isinstance(run, Mapping):
        return {**document, "run": {**cast("Mapping[str, object]", run), "store": names}}
    return {**document, "store": names}


def execute(
    inputs: Mapping[str, InputLike],
    nodes: Sequence[Mapping[str, object]],
    outputs: Mapping[str, Ref] | None,
    run: Mapping[str, object],
    feeds: Mapping[str, Mapping[str, TensorLike] | None],
    *,
    binary: bool,
    refer: Refer,
    store: Store | None,
) -> Exchange[Groups]:
    """A whole graph and its run."""
    specs = input_specs(inputs)
    dtypes = {spec["name"]: spec.get("dtype") for spec in specs}
    tensors: dict[str, Sent] = {}
    for group, values in feeds.items():
        for name, value in by_name(group, values or {}).items():
            dtype = dtypes.get(name) if group != "cotangents" else None
            tensors[f"run/{group}/{name}"] = as_sent(value, dtype, f"{group}[{name!r}]")
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
    return perform_run("/v1/execute", document, tensors, binary=binary, refer=refer, store=store)


# -- resident tensors ------------------------------------------------------------------------------


def put_tensor(
    name: str, value: TensorLike, version: int | None, *, new: bool, binary: bool
) -> Exchange[ResidentDocument]:
    """Keep a tensor; at a version, only in the place of that one; `new`, only where is none."""
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    if new:
        headers["If-None-Match"] = "*"
    sent = as_sent(value, what=f"tensors[{name!r}]")
    document: Mapping[str, object] | None = None
    tensors: dict[str, Sent] = {}
    if isinstance(sent, Reference):
        document = sent.document()
    elif binary:
        tensors["value"] = sent
    else:
        document = encode_tensor(sent)
    answer = yield Request(
        "PUT",
        _tensor(name),
        document,
        tensors,
        binary=binary,
        headers=headers,
        repeatable=not headers,
    )
    return cast("ResidentDocument", answer.document)


def tensor_data(name: str) -> Exchange[Array]:
    """The array that a resident tensor is."""
    return _lone_tensor((yield Request("GET", _tensor(name), binary_answer=True)))


def tensor_info(name: str) -> Exchange[ResidentDocument]:
    """What the server says of a resident tensor."""
    answer = yield Request("GET", _tensor(name), query={"data": "false"})
    return cast("ResidentDocument", answer.document)


def has_tensor(name: str) -> Exchange[bool]:
    """Whether there is a resident tensor of that name."""
    try:
        yield Request("GET", _tensor(name), query={"data": "false"})
    except errors.TensorNotFound:
        return False
    return True


def tensor_page(cursor: str | None) -> Exchange[ResidentList]:
    """One page of the caller's resident tensors."""
    query = {"limit": "1000", **({} if cursor is None else {"cursor": cursor})}
    answer = yield Request("GET", "/v1/tensors", query=query)
    return cast("ResidentList", answer.document)


def delete_tensor(name: str) -> Exchange[None]:
    """The end of a resident tensor."""
    yield Request("DELETE", _tensor(name))


# -- parts -----------------------------------------------------------------------------------------


def _session(sid: str) -> str:
    return f"/v1/sessions/{segment(sid)}"


def _tensor(name: str) -> str:
    return f"/v1/tensors/{segment(tensor_name(name))}"


def _named(document: Mapping[str, object], name: str | None) -> dict[str, object]:
    return {**document, **({} if name is None else {"name": name})}


def _created(
    path: str,
    document: Mapping[str, object],
    tensors: Mapping[str, Sent] | None = None,
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
            if group in TENSOR_GROUPS:
                groups[group] = {n: _decode(t, f"{group}/{n}") for n, t in members.items()}
    for path, array in answer.tensors.items():
        group, _, name = path.partition("/")
        groups.setdefault(group, {})[name] = array
    return groups


def _lone_tensor(answer: Answer) -> Array:
    """The array of an answer that is one tensor."""
    if answer.tensors:
        return next(iter(answer.tensors.values()))
    return _decode(answer.document, "data")


def _decode(document: object, path: str) -> Array:
    try:
        return decode_tensor(document, path, dtype=None, shape=None)
    except WireError as error:
        raise errors.UnexpectedAnswer(f"the answer cannot be read: {error.detail}") from None
