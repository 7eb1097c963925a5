"""Runs: forward, vjp and jvp of a session's graph, and of a graph that comes with the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from starlette.routing import Route

from gradwire.wire.errors import WireError
from gradwire_engine import Builder, Graph
from gradwire_engine.errors import EngineError, InvalidName, InvalidOption, InvalidShape
from gradwire_engine.request import RESULTS

from ..dispatch import Handler, resource
from ..elements import check_elements, types_of
from ..http import Call, Reply
from ..reading import join
from ..requests import RunRequest, execute_request, run_request
from ..sessions import resolve_outputs
from ..tensors import tensor_name

__all__ = ["ROUTES"]

Array = np.ndarray[Any, Any]


def run_session(mode: str, call: Call) -> Reply:
    """`POST /v1/sessions/{sid}/forward`, `/vjp` and `/jvp`."""
    sessions = call.service.sessions
    with call.watch.step("decode"):
        wanted = run_request(call.document(), mode)
        graph = sessions.graph(sessions.find(call.owner, call.sid))
    return run(call, graph, wanted)


def execute(call: Call) -> Reply:
    """`POST /v1/execute`."""
    settings = call.service.settings
    with call.watch.step("decode"):
        wanted = execute_request(call.document(), call.resident)
        builder = Builder(
            wanted.inputs, memory_limit=settings.memory_bytes, node_limit=settings.max_nodes
        )
        builder.append(wanted.entries)
        outputs = resolve_outputs(builder, wanted.outputs)
        graph = builder.graph(outputs or None)
        check_elements(types_of(graph), settings.max_elements)
    return run(call, graph, wanted.run)


def run(call: Call, graph: Graph, wanted: RunRequest) -> Reply:
    """Run a graph and answer with its results."""
    watch = call.watch
    with watch.step("decode"):
        with _paths_under(wanted.tensors.prefix):
            call.stop.within(wanted.spec.deadline_ms)
            deadline = call.stop.deadline()
            prepared = call.service.engine.prepare(graph, wanted.spec, deadline)
            _check_store(wanted.store, prepared.paths)
        tensors = wanted.tensors.decode(
            {path: (e.dtype, e.shape) for path, e in prepared.expects.items()}, call.resident
        )
    try:
        with _paths_under(wanted.tensors.prefix):
            result = prepared.execute(tensors, deadline)
    except BaseException:
        watch.lap("execute")  # how much of it was compiling is not known
        raise
    watch.note("compile", result.compile_ms / 1e3)
    watch.note("execute", result.execute_ms / 1e3)
    call.exchange.tier = result.tier
    headers = {"Gradwire-Tier": result.tier, "Cache-Control": "no-store"}
    stored = _store(call, wanted.store, result.results)
    results = {path: array for path, array in result.results.items() if path not in stored}
    groups = RESULTS[wanted.spec.mode]
    return call.results(results, groups, stored, wanted.tensors.base64, headers)


def _check_store(store: Mapping[str, str], paths: Sequence[str]) -> None:
    """Refuse, before anything runs, what cannot be stored."""
    names: set[str] = set()
    for path, name in store.items():
        if path not in paths:
            raise InvalidOption(
                path=join("store", path),
                value=path[:300],
                reason=f"this run answers with {', '.join(paths)}",
            )
        place = join("store", path)
        if tensor_name(name, place) in names:
            reason = "another result of the run is to have that name"
            raise InvalidOption(path=place, value=name, reason=reason)
        names.add(name)


def _store(
    call: Call, store: Mapping[str, str], results: Mapping[str, Array]
) -> dict[str, dict[str, Any]]:
    """Keep results as resident tensors, all or none; what became of them, by path."""
    if not store:
        return {}
    arrays = {name: results[path] for path, name in store.items()}
    with call.watch.step("store"):
        # Up to the last moment: what nobody waits for any more leaves nothing behind.
        rows = call.service.tensors.put(call.owner, arrays, lambda _: call.stop.check())
    return {path: rows[name].document() for path, name in store.items()}


_PEEK = 2**16
"""The most bytes of options that are read on the event loop."""


def stated_deadline(call: Call) -> float | None:
    """The `deadline_ms` of a run that has to wait, if it can be read in no time."""
    size = int.from_bytes(call.body[:8], "little") if call.binary else len(call.body)
    if size > _PEEK:
        return None
    try:
        document: Any = call.document()
    except (EngineError, WireError, RecursionError):
        return None  # to be refused when it is its turn
    run = document.get("run", document) if isinstance(document, dict) else None
    stated = run.get("deadline_ms") if isinstance(run, dict) else None
    if isinstance(stated, bool) or not isinstance(stated, int | float) or stated < 0:
        return None
    return stated


@contextmanager
def _paths_under(prefix: str) -> Iterator[None]:
    """Options are told by their path in the body, where a run may be a part of it."""
    try:
        yield
    except (InvalidOption, InvalidShape, InvalidName) as error:
        if error.path is not None:
            error.path = prefix + error.path
        raise


def _run(path: str, handler: Handler) -> Route:
    return resource(path, post=handler, heavy=True, deadline=stated_deadline)


ROUTES = (
    _run("/v1/sessions/{sid}/forward", partial(run_session, "forward")),
    _run("/v1/sessions/{sid}/vjp", partial(run_session, "vjp")),
    _run("/v1/sessions/{sid}/jvp", partial(run_session, "jvp")),
    _run("/v1/execute", execute),
)
