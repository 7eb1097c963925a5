"""Runs: forward, vjp and jvp of a session's graph, and of a graph that comes with the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from gradwire_engine import Builder, Graph
from gradwire_engine.builder import check_name
from gradwire_engine.errors import InvalidOption, InvalidShape

from ..dispatch import resource
from ..http import Call, Reply, Stopwatch
from ..requests import RunRequest, execute_request, run_request

__all__ = ["ROUTES"]

_RESULTS = {
    "forward": ("outputs",),
    "vjp": ("outputs", "gradients"),
    "jvp": ("outputs", "tangents"),
}


def run_session(mode: str, call: Call) -> Reply:
    """`POST /v1/sessions/{sid}/forward`, `/vjp` and `/jvp`."""
    watch = Stopwatch()
    wanted = run_request(call.document(), mode)
    sessions = call.service.sessions
    return run(call, sessions.graph(sessions.find(call.owner, call.sid)), wanted, watch)


def execute(call: Call) -> Reply:
    """`POST /v1/execute`."""
    watch = Stopwatch()
    wanted = execute_request(call.document())
    settings = call.service.settings
    builder = Builder(
        wanted.inputs, memory_limit=settings.memory_bytes, node_limit=settings.max_nodes
    )
    builder.append(wanted.entries)
    outputs = {check_name(name): builder.resolve(ref) for name, ref in wanted.outputs.items()}
    return run(call, builder.graph(outputs or None), wanted.run, watch)


def run(call: Call, graph: Graph, wanted: RunRequest, watch: Stopwatch) -> Reply:
    """Run a graph and answer with its results."""
    with _paths_under(wanted.tensors.prefix):
        prepared = call.service.engine.prepare(graph, wanted.spec)
    tensors = wanted.tensors.decode(
        {path: (e.dtype, e.shape) for path, e in prepared.expects.items()}
    )
    watch.lap("decode")
    with _paths_under(wanted.tensors.prefix):
        result = prepared.execute(tensors)
    watch.note("compile", result.compile_ms)
    watch.note("execute", result.execute_ms)
    headers = {"Gradwire-Tier": result.tier, "Cache-Control": "no-store"}
    groups = _RESULTS[wanted.spec.mode]
    return call.results(result.results, groups, wanted.tensors.base64, headers, watch)


@contextmanager
def _paths_under(prefix: str) -> Iterator[None]:
    """Options are told by their path in the body, where a run may be a part of it."""
    try:
        yield
    except (InvalidOption, InvalidShape) as error:
        error.path = prefix + error.path
        raise


ROUTES = (
    resource("/v1/sessions/{sid}/forward", post=partial(run_session, "forward"), heavy=True),
    resource("/v1/sessions/{sid}/vjp", post=partial(run_session, "vjp"), heavy=True),
    resource("/v1/sessions/{sid}/jvp", post=partial(run_session, "jvp"), heavy=True),
    resource("/v1/execute", post=execute, heavy=True),
)
