"""What is computed together, and what is computed again: the groups of typical graphs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from gradwire_engine import ops, transform
from gradwire_engine.codegen.fuse import Fusion, fuse
from gradwire_engine.codegen.program import Call, dense
from gradwire_engine.codegen.recompute import recompute, stored
from gradwire_engine.codegen.schedule import schedule, spelled_out
from gradwire_engine.codegen.space import Space, complement, intervals, strides_over
from gradwire_engine.codegen.views import reshaped, view
from gradwire_engine.ir import Graph, GraphBuilder, Input, Type, Value
from gradwire_engine.passes import optimize


def op(name: str, *operands: Value, **attributes: Any) -> Value:
    return ops.find(name).parse(attributes)(*operands)


def build(function: Any, **shapes: tuple[int, ...]) -> Graph:
    builder = GraphBuilder()
    values = [builder.input(Input(name, Type(shape))) for name, shape in shapes.items()]
    return builder.graph([("y", function(*values))])


def groups(graph: Graph, mode: str = "forward") -> Fusion:
    names = [spec.name for spec in graph.inputs]
    if mode == "vjp":
        graph = transform.vjp(graph, names, ["y"])
    elif mode == "jvp":
        graph = transform.jvp(graph, names)
    fusion = fuse(spelled_out(optimize(graph)))
    recompute(fusion)
    return fusion


def named(fusion: Fusion, position: int) -> list[str]:
    nodes = (fusion.node(id) for id in fusion.groups[position].members)
    return [node.op.name for node in nodes if node is not None]


LAYER_NORM = build(lambda x, g, b: op("layer_norm", x, g, b), x=(8, 6), gamma=(6,), beta=(6,))


@pytest.mark.parametrize("mode", ["forward", "vjp", "jvp"])
def test_a_layer_norm_is_one_group(mode: str) -> None:
    assert len(groups(LAYER_NORM, mode).groups) == 1


@pytest.mark.parametrize("mode", ["forward", "vjp", "jvp"])
def test_a_softmax_is_one_group(mode: str) -> None:
    graph = build(lambda x: op("softmax", x), x=(8, 6))
    assert len(groups(graph, mode).groups) == 1


def test_a_sum_along_rows_of_column_sums_is_a_group_of_its_own() -> None:
    # Once the columns are reduced away between stages, a sum along the rows has to wait.
    def totals(x: Value) -> Value:
        columns = op("broadcast_to", op("reduce_sum", x, axis=0), shape=[5, 7])
        return op("reduce_sum", columns, axis=1)

    fusion = groups(build(totals, x=(5, 7)))
    assert [named(fusion, i) for i in range(len(fusion.groups))] == [["reduce_sum"]] * 2


def test_a_loss_shares_a_group_with_its_gradient() -> None:
    def loss(x: Value, t: Value) -> Value:
        return -op("sum", op("log_softmax", x) * t) / 8.0

    sizes = [g.space.size for g in groups(build(loss, x=(32, 16), t=(32, 16)), "vjp").groups]
    assert sizes.count(512) == 1, "beside it there are scalars only"


def test_attention_copies_no_head() -> None:
    n, d, h = 6, 8, 2

    def attention(x: Value, *weights: Value) -> Value:
        def heads(w: Value) -> Value:
            split = op("reshape", op("matmul", x, w), shape=[n, h, d // h])
            return op("transpose", split, perm=[1, 0, 2])

        q, k, v = (heads(w) for w in weights[:3])
        scores = op("softmax", op("bmm", q, op("transpose", k, perm=[0, 2, 1])))
        merged = op("transpose", op("bmm", scores, v), perm=[1, 0, 2])
        return op("matmul", op("reshape", merged, shape=[n, d]), weights[3])

    square = (d, d)
    graph = build(attention, x=(n, d), q=square, k=square, v=square, o=square)
    for mode in ("forward", "vjp", "jvp"):
        alone = [
            named(fusion, i)[0]
            for fusion in (groups(graph, mode),)
            for i, g in enumerate(fusion.groups)
            if g.alone
        ]
        assert set(alone) <= {"dot_general", "add"}, "products, and sums of products"


def test_a_gelu_keeps_nothing_for_its_derivative() -> None:
    def layer(x: Value, w: Value, v: Value) -> Value:
        return op("matmul", op("gelu", op("matmul", x, w)), v)

    fusion = groups(build(layer, x=(4, 4), w=(4, 8), v=(8, 4)), "vjp")
    forward = next(g for g in fusion.groups if not g.alone)
    leaving = stored(fusion).intersection(forward.members)
    assert len(leaving) == 1, "only what the next product reads"


def test_order_and_membership() -> None:
    fusion = groups(LAYER_NORM, "vjp")
    assert [g.index for g in fusion.groups] == sorted(g.index for g in fusion.groups)


def test_constants_and_sizes_are_not_in_the_text() -> None:
    def texts(rows: int, temperature: float) -> list[str]:
        graph = build(lambda x: op("softmax", op("scale", x, c=temperature)), x=(rows, 6))
        steps = schedule(optimize(graph), 2).steps
        return [s.kernel.text for s in steps if isinstance(s, Call)]

    assert texts(8, 0.5) == texts(1000, 0.25)


def test_long_rows_fetch_ahead() -> None:
    """What the next pass is the first to touch, and in the second pass the next row."""

    def fetched(columns: int) -> list[list[tuple[str, str]]]:
        graph = build(lambda x: op("softmax", x), x=(8, columns))
        (call,) = (s for s in schedule(optimize(graph), 2).steps if isinstance(s, Call))
        stages = call.kernel.text.split("for row in")[1].split("for j in")
        return [re.findall(r"fetch_(\w+)\(p(\d)", stage) for stage in stages]

    x, y = "0", "2"
    assert fetched(300) == [[], [("read", x), ("write", y)], [], []]
    assert not any(fetched(100))


# -- spaces and views ------------------------------------------------------------------------------


def test_boundaries_refine_a_space() -> None:
    space = Space(24)
    assert space.fit([1, 6, 24])
    assert space.fit([1, 2, 24])
    assert [high // low for low, high in space.atoms()] == [4, 3, 2]
    assert not space.fit([1, 4, 24]), "4 does not divide 6"
    assert [high // low for low, high in space.atoms()] == [4, 3, 2]


def test_intervals_name_axes_whatever_the_shape() -> None:
    assert intervals((4, 2, 3), (1, 2)) == intervals((4, 6), (1,)) == ((1, 6),)
    assert complement(24, ((2, 6),)) == ((1, 2), (6, 24))


def test_strides_over_atoms() -> None:
    space = Space(24)
    space.fit([1, 2, 6, 24])
    assert strides_over((4, 6), (0, 1), space.atoms()) == [0, 2, 1]
    assert strides_over((4, 6), (1, 4), space.atoms()) == [1, 8, 4]


@pytest.mark.parametrize("seed", range(40))
def test_reshaped_views_are_numpys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.choice([1, 2, 3, 4], 4))
    base = np.arange(np.prod(shape)).reshape(shape)
    order = tuple(int(p) for p in rng.permutation(4))
    turned = base.transpose(order)
    layout = view(ops.find("transpose").parse({"perm": list(order)}), dense(0, Type(shape)))
    assert layout is not None
    target = [int(s) for s in rng.permutation(turned.shape)]
    if rng.random() < 0.5:
        target = [target[0] * target[1], *target[2:]]
    found = reshaped(layout, target)
    expected = turned.reshape(target)
    if found is None:
        assert not np.shares_memory(expected, base)
        return
    steps = [s * base.itemsize for s in found.strides]
    actual = np.lib.stride_tricks.as_strided(base, found.shape, steps)
    np.testing.assert_array_equal(actual, expected)
