"""Passes change how, never what: each identity, and the traps of floating point."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Entry, Graph, Input, passes, transform
from gradwire_engine.ir import GraphBuilder, type_of
from gradwire_engine.ops import find
from gradwire_engine.runtime import execute, interpret, make_plan
from gradwire_engine.verify import verify

from .support import grow, inputs


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def const(value: Any) -> Entry:
    return Entry("const", (), {"value": np.asarray(value, dtype=np.float64)})


IDENTITIES = [
    ("neg neg", [Entry("neg", (0,)), Entry("neg", (1,))], []),
    ("times one", [const(np.float64(1)), Entry("broadcast_to", (1,), {"shape": [2, 3]}),
                   Entry("mul", (0, 2))], []),
    ("scale by one stays", [Entry("scale", (0,), {"c": 1})], ["scale"]),
    ("same cast", [Entry("cast", (0,), {"dtype": "float64"})], []),
    ("reshape chain", [Entry("reshape", (0,), {"shape": [6]}),
                       Entry("reshape", (1,), {"shape": [3, 2]})], ["reshape"]),
    ("reshape there and back", [Entry("reshape", (0,), {"shape": [6]}),
                                Entry("reshape", (1,), {"shape": [2, 3]})], []),
    ("transposes cancel", [Entry("transpose", (0,), {"perm": [1, 0]}),
                           Entry("transpose", (1,), {"perm": [1, 0]})], []),
    ("broadcast chain", [Entry("broadcast_to", (0,), {"shape": [4, 2, 3]}),
                         Entry("broadcast_to", (1,), {"shape": [5, 4, 2, 3]})], ["broadcast_to"]),
    ("detach goes", [Entry("detach", (0,)), Entry("exp", (1,))], ["exp"]),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "left"), [c[1:] for c in IDENTITIES],
                         ids=[c[0] for c in IDENTITIES])  # fmt: skip
def test_identities(entries: list[Entry], left: list[str]) -> None:
    graph = grow(inputs(x=(2, 3)), *entries)
    optimized = passes.optimize(graph, verify)
    assert ops_of(optimized) == left
    x = np.array([[np.nan, -0.0, np.inf], [1.0, -2.0, 1e300]])
    np.testing.assert_array_equal(interpret(optimized, [x]), interpret(graph, [x]))


def test_no_unsafe_identity() -> None:
    graph = grow(
        inputs(x=(3,)),
        const([0.0, 0.0, 0.0]),
        Entry("mul", (0, 1)),
        Entry("sub", (0, 0)),
        Entry("div", (0, 0)),
        Entry("add", (0, 1)),
        outputs={"m": 2, "s": 3, "d": 4, "a": 5},
    )
    x = np.array([np.inf, 0.0, -0.0])
    for before, after in zip(
        interpret(graph, [x]), interpret(passes.optimize(graph), [x]), strict=True
    ):
        np.testing.assert_array_equal(before, after)
        np.testing.assert_array_equal(np.signbit(before), np.signbit(after))


def test_cse_keeps_signed_zeros_and_ints_apart() -> None:
    graph = grow(
        inputs(x=(2,)),
        Entry("scale", (0,), {"c": 0.0}),
        Entry("scale", (0,), {"c": -0.0}),
        Entry("scale", (0,), {"c": 0.0}),
        outputs={"a": 1, "b": 2, "c": 3},
    )
    merged = passes.cse(graph)
    assert len(merged.nodes) == 2
    assert dict(merged.outputs) == {"a": 1, "b": 2, "c": 1}


def test_cse_never_takes_a_name_away() -> None:
    graph = grow(
        inputs(x=(2,)),
        Entry("exp", (0,), name="a"),
        Entry("exp", (0,), name="b"),
        Entry("exp", (0,)),
        outputs={"a": 1, "b": 2, "c": 3},
    )
    assert [n.name for n in passes.tidy(graph).nodes] == ["a", "b"]


def test_fold_computes_constants_once() -> None:
    graph = grow(
        inputs(x=(3,)),
        const(np.float64(2)),
        Entry("exp", (1,)),
        Entry("broadcast_to", (2,), {"shape": [3]}),
        Entry("sqrt", (3,)),
        Entry("mul", (0, 4)),
    )
    assert ops_of(passes.optimize(graph, verify)) == ["const", "broadcast_to", "mul"]


def test_fold_does_not_grow_a_graph() -> None:
    graph = grow(
        inputs(x=(300, 300)),
        const(np.float64(2)),
        Entry("broadcast_to", (1,), {"shape": [300, 300]}),
        Entry("mul", (0, 2)),
    )
    optimized = passes.optimize(graph)
    assert all(n.op.attrs()["value"].size == 1 for n in optimized.nodes if n.op.name == "const")


def test_arithmetic_on_a_repeated_constant_is_done_once() -> None:
    graph = grow(
        inputs(x=(10**4, 10**3)),
        const(np.float64(2)),
        Entry("broadcast_to", (1,), {"shape": [10**4, 10**3]}),
        Entry("exp", (2,)),
        Entry("mul", (0, 3)),
    )
    optimized = passes.optimize(graph, verify)
    assert ops_of(optimized) == ["const", "broadcast_to", "mul"]
    assert optimized.nodes[0].op.attrs()["value"] == np.exp(2.0)


def test_dce_keeps_inputs() -> None:
    graph = grow(inputs(x=(2,), w=(2,)), Entry("exp", (1,)), Entry("log", (0,)))
    slim = passes.dce(graph)
    assert ops_of(slim) == ["log"]
    assert len(slim.inputs) == 2


def test_buffers_are_freed_when_no_later_step_reads_them() -> None:
    chain = [Entry("tanh", (k,)) for k in range(50)]
    graph = grow(inputs(x=(1000,)), *chain)
    plan = make_plan(graph)
    assert plan.peak_bytes < 3 * 8000 + 4096
    assert all(step.frees for step in plan.steps[:-1])


def test_the_estimate_bounds_what_numpy_allocates() -> None:
    graph = grow(
        inputs(x=(64, 512), w=(512, 512)),
        Entry("matmul", (0, 1)),
        Entry("softmax", (2,)),
        Entry("sum", (3,)),
    )
    plan = make_plan(passes.optimize(transform.vjp(graph, ["x", "w"])))
    arguments = [np.ones((64, 512)), np.ones((512, 512)), np.array(1.0)]
    execute(plan, arguments)
    tracemalloc.start()
    execute(plan, arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= plan.peak_bytes * 1.25 + 20_000
    assert plan.peak_bytes <= peak * 2


ESTIMATED: list[tuple[str, dict[str, Any], list[tuple[int, ...]]]] = [
    ("max_pool", {"kernel": 3, "stride": 1, "padding": 1}, [(1, 600, 600)]),
    ("max_pool", {"kernel": 9, "stride": 1}, [(16, 100, 100)]),
    ("max_pool", {"kernel": 300}, [(1, 600, 600)]),
    ("max_pool", {"kernel": 2}, [(64, 100, 100)]),
    ("cumsum", {"axis": 0}, [(300, 1000)]),
    ("argmax", {"axis": 0}, [(300, 1000)]),
    ("cast", {"dtype": "int64"}, [(300, 1000)]),
    ("where", {}, [(300, 1000), (300, 1000)]),
]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("op", "attrs", "shapes"), ESTIMATED)
def test_no_estimate_is_far_too_low(
    op: str, attrs: dict[str, Any], shapes: list[tuple[int, ...]], backwards: bool
) -> None:
    arrays: list[Any] = [
        np.random.default_rng(k).random(s, np.float32) for k, s in enumerate(shapes)
    ]
    if op == "where":
        arrays.insert(0, arrays[0] > arrays[1])
    builder = GraphBuilder()
    values = [builder.input(Input(f"x{i}", type_of(a))) for i, a in enumerate(arrays)]
    y = builder.apply(find(op).parse(attrs), *values)
    graph = builder.graph([("y", y)])
    if backwards:
        if not y.type.is_float:
            return
        wrt = [v.name for v in graph.inputs if v.type.is_float]
        graph = transform.vjp(graph, wrt)
        arrays.append(np.ones(y.shape, y.dtype))
    plan = make_plan(passes.optimize(graph))
    execute(plan, arrays)
    tracemalloc.start()
    execute(plan, arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= plan.peak_bytes * 1.25 + 200_000


def test_hashes() -> None:
    one = grow(inputs(x=(2,)), Entry("scale", (0,), {"c": 2.0}))
    two = grow(inputs(x=(2,)), Entry("scale", (0,), {"c": 3.0}))
    other = grow(inputs(x=(3,)), Entry("scale", (0,), {"c": 3.0}))
    assert one.content_hash != two.content_hash
    assert one.structure_hash == two.structure_hash
    assert two.structure_hash != other.structure_hash
