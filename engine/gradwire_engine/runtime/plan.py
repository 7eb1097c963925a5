"""A plan: the order of steps, when each buffer is freed, and the peak of memory, known before."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import Graph

PEAK_SLACK = 4096


@dataclass(frozen=True)
class Step:
    """One node of the plan: `frees` are the values that no later step reads."""

    index: int
    op: object
    inputs: tuple[int, ...]
    result: int
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A lowered graph with its schedule.

    Attributes:
        graph: Primitives only.
        steps: In order of execution.
        peak_bytes: An upper bound on bytes of intermediate results and outputs at any time; inputs
            belong to the caller.
    """

    graph: Graph
    steps: tuple[Step, ...]
    peak_bytes: int


def make_plan(graph: Graph) -> Plan:
    """Schedule a lowered graph in its own order and compute liveness.

    A view (a broadcast, a transposition) has no buffer of its own; it keeps its base alive.
    """
    m = len(graph.inputs)
    outputs = {id for _, id in graph.outputs}
    last = dict.fromkeys(range(graph.size), -1)
    for k, node in enumerate(graph.nodes):
        for i in node.inputs:
            last[i] = k
    base = list(range(graph.size))
    dense = [True] * graph.size
    for k, node in enumerate(graph.nodes, start=m):
        if node.op.view and node.inputs:
            source = node.inputs[0]
            reshape = node.op.name == "reshape"
            if not reshape or dense[source]:
                base[k] = base[source]
            dense[k] = reshape
    base_last = dict(last)
    for id in range(graph.size):
        base_last[base[id]] = max(base_last[base[id]], last[id])
        if id in outputs:
            base_last[base[id]] = len(graph.nodes)
    dies_at: dict[int, list[int]] = {}
    frees_at: dict[int, list[int]] = {}
    for id in range(graph.size):
        if base[id] == id and id >= m:
            dies_at.setdefault(max(base_last[id], id - m), []).append(id)
        if id not in outputs:
            frees_at.setdefault(max(last[id], id - m), []).append(id)
    steps, live, peak = [], 0, 0
    for k, node in enumerate(graph.nodes):
        id = m + k
        if base[id] == id and node.op.name != "const":
            live += node.type.nbytes
        scratch = node.op.workspace(*(graph.type_of(i) for i in node.inputs))
        peak = max(peak, live + scratch)
        steps.append(Step(k, node.op, node.inputs, id, tuple(frees_at.get(k, ()))))
        for dead in dies_at.get(k, ()):
            if graph.nodes[dead - m].op.name != "const":
                live -= graph.type_of(dead).nbytes
    copied = 0  # views, inputs and repeats become outputs with memory of their own in the end
    for _, id in graph.outputs:
        if base[id] != id or id < m or id not in outputs:
            copied += graph.type_of(id).nbytes
        outputs.discard(id)
    return Plan(graph, tuple(steps), peak + copied + PEAK_SLACK)
