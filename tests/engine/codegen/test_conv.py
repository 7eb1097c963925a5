"""Convolution kernels against the op's NumPy meaning, over geometries of every kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Graph, Input, Type, passes, transform
from gradwire_engine.codegen.lowering import conv, conv_blocks, conv_cuts
from gradwire_engine.codegen.lowering.conv import lower_conv_general
from gradwire_engine.codegen.program import Call, Layout
from gradwire_engine.codegen.programs import jit_is_off
from gradwire_engine.ir import GraphBuilder
from gradwire_engine.ops.conv import ConvGeneral

from .emitted import Emitted

Array = np.ndarray[Any, Any]
Rng = np.random.Generator
SLOW = jit_is_off()
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


def clear_plans() -> None:
    conv_cuts.cut_product.cache_clear()
    conv_cuts.cut_weights.cache_clear()


def check(
    op: ConvGeneral, x: Array, w: Array, *, threads: int = 2, order: Sequence[int] | None = None
) -> list[str]:
    """Run an op and compare; the titles of the kernels that ran."""
    made = Emitted(threads)
    operands = [made.input(x), made.input(w)]
    result = made.output(op.typing(operands[0].type, operands[1].type), order)
    assert lower_conv_general(made.emit, op, operands, result)
    made.run()
    wide = [a.astype(np.float64) for a in (x, w)]
    expected = op.numpy(*wide)
    with np.errstate(invalid="ignore"):
        bound = op.numpy(*(np.abs(a) for a in wide))
        error = np.abs(made.array(result) - expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(made.array(result)), finite)
    assert np.all(error[finite] <= TOLERANCE[x.dtype.name] * bound[finite])
    return [step.kernel.title for step in made.emit.steps if isinstance(step, Call)]


def turned(rng: Rng, array: Array) -> Array:
    """The same values behind other strides."""
    order = rng.permutation(array.ndim)
    held = np.ascontiguousarray(array.transpose(order))
    for axis in range(array.ndim):
        if rng.random() < 0.3:
            held = np.ascontiguousarray(np.flip(held, axis))
            held = np.flip(held, axis)
    return held.transpose(np.argsort(order))


def geometry(rng: Rng) -> tuple[ConvGeneral, tuple[int, ...], tuple[int, ...]]:
    """A random op with operand shapes that fit it."""
    while True:
        rank = int(rng.integers(1, 4))
        most = 6 if SLOW else {1: 60, 2: 20, 3: 8}[rank]
        kernel = int(rng.choice([3, 4, most]))

        def sizes(low: int, high: int, rank: int = rank) -> tuple[int, ...]:
            return tuple(int(n) for n in rng.integers(low, high + 1, rank))

        def factors(*choice: int, rank: int = rank) -> tuple[int, ...]:
            return tuple(int(n) for n in rng.choice(choice, rank))

        groups, channels, filters = (int(n) for n in rng.integers(1, (4, 6, 8)))
        op = ConvGeneral(
            strides=factors(1, 1, 2, 3),
            low=sizes(-2, 3),
            high=sizes(-2, 3),
            dilate_x=factors(1, 1, 1, 2, 3),
            dilate_w=factors(1, 1, 2, 3),
            groups=groups,
        )
        x = (int(rng.integers(1, 4)), groups * channels, *sizes(1, most))
        w = (groups * filters, channels, *sizes(1, kernel))
        g = op.geometry(Type(x), Type(w))
        work = g.samples * groups * filters * channels * g.offsets * max(g.places, 0)
        if min(g.out) >= 1 and work <= (4_000 if SLOW else 4_000_000):
            return op, x, w


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(4))
def test_any_geometry(seed: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([seed, len(dtype)])
    for _ in range(10 if SLOW else 25):
        op, x_shape, w_shape = geometry(rng)
        x, w = (rng.normal(size=shape).astype(dtype) for shape in (x_shape, w_shape))
        if rng.random() < 0.5:
            x, w = turned(rng, x), turned(rng, w)
        order = rng.permutation(x.ndim).tolist() if rng.random() < 0.3 else None
        # Small tiles, so that there are many.
        monkeypatch.setattr(conv_cuts, "TILE_BYTES", (int(rng.choice([512, 4096, 100_000])),))
        clear_plans()
        check(op, x, w, threads=int(rng.integers(1, 4)), order=order)
    clear_plans()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["_product", "_weights"])
def test_either_way(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution can be computed as a product and as a gradient of weights."""
    rng = np.random.default_rng(7)
    for other in ("_product", "_weights"):
        monkeypatch.setattr(conv, other, getattr(conv, name))
    monkeypatch.setattr(conv, "_as_dot", lambda *_: False)
    for _ in range(5 if SLOW else 20):
        op, x, w = geometry(rng)
        titles = check(op, *(rng.normal(size=shape).astype(dtype) for shape in (x, w)))
        assert {t.split()[1] for t in titles} <= {name.removeprefix("_")}


@pytest.mark.parametrize("kernel", [3, 9])
def test_infinities_stay_where_they_are(kernel: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 2, 11, 13)).astype(np.float32)
    x[0, 1, 4, 12], x[1, 0, 10, 0], x[1, 1, 0, 5] = np.inf, np.nan, -np.inf
    w = rng.normal(size=(3, 2, kernel, kernel)).astype(np.float32)
    check(ConvGeneral(low=1, high=2), x, w)


@pytest.mark.parametrize(
    ("x", "w", "low"),
    [
        ((0, 2, 5), (3, 2, 3), 0),
        ((2, 0, 5), (3, 0, 3), 0),
        ((2, 2, 0), (3, 2, 3), 2),
        ((2, 0, 5), (3, 0, 1), 0),
    ],
)
def test_empty(x: tuple[int, ...], w: tuple[int, ...], low: int) -> None:
    check(ConvGeneral(low=low, high=low), np.ones(x), np.ones(w))


# -- which kernels run -----------------------------------------------------------------------------


def calls(node: Any, graph: Graph, layouts: dict[int, Layout], made: Emitted) -> list[Call]:
    """The calls of one node, on dense operands."""
    operands = [layouts.setdefault(i, made.output(graph.type_of(i))) for i in node.inputs]
    assert lower_conv_general(made.emit, node.op, operands, made.output(node.type))
    return [step for step in made.emit.steps if isinstance(step, Call)]


def forms(x: tuple[int, ...], w: tuple[int, ...], stride: int, low: int) -> dict[str, list[Call]]:
    """The calls of a convolution and of its gradients."""
    b = GraphBuilder()
    operands = (b.input(Input("x", Type(x))), b.input(Input("w", Type(w))))
    y = ConvGeneral(strides=stride, low=low, high=low)(*operands)
    graph = passes.optimize(transform.vjp(b.graph([("y", y)]), ["x", "w"]))
    found = {}
    nodes = [node for node in graph.nodes if node.op.name == "conv_general"]
    for name, node in zip(("y", "w", "x"), nodes, strict=True):
        found[name] = calls(node, graph, {}, Emitted())
    return found


def titles(found: list[Call]) -> list[str]:
    return [call.kernel.title.split()[1] for call in found]


def test_forms_of_a_layer() -> None:
    found = forms((4, 64, 56, 56), (64, 64, 3, 3), 1, 1)
    assert titles(found["y"]) == titles(found["x"]) == ["product"]
    assert titles(found["w"]) == ["weights"]


def test_forms_of_a_strided_layer() -> None:
    """The gradient of the signal is as many small convolutions as there are remainders."""
    found = forms((4, 3, 224, 224), (64, 3, 7, 7), 2, 3)
    assert titles(found["y"]) == ["product"]
    assert titles(found["x"]) == ["product"] * 4
    assert titles(found["w"]) == ["weights"]
    cells = [dict(zip(range(10, 99), c.words, strict=False))[conv_blocks.CELLS] for c in found["x"]]
    assert sum(cells) == 49


def test_forms_of_a_pointwise_layer() -> None:
    found = forms((4, 256, 56, 56), (64, 256, 1, 1), 1, 0)
    for made in found.values():
        assert any("product by tiles" in call.kernel.title for call in made)
        assert not any("conv_general" in call.kernel.title for call in made)


def test_sizes_compile_nothing() -> None:
    kinds = [
        {call.kernel for found in forms(*shapes).values() for call in found}
        for shapes in (
            ((4, 64, 56, 56), (64, 64, 3, 3), 1, 1),
            ((100, 5, 31, 30), (7, 5, 4, 2), 3, 1),
            ((7, 3, 223, 221), (61, 3, 7, 7), 2, 3),
        )
    ]
    assert kinds[0] == kinds[1] == kinds[2]


@pytest.mark.parametrize("samples", [1, 16, 100])
def test_scratch_memory_does_not_grow_with_the_batch(samples: int) -> None:
    for found in forms((samples, 64, 56, 56), (64, 64, 3, 3), 1, 1).values():
        for call in found:
            words = dict(zip(range(10, 99), call.words, strict=False))
            assert words[conv_blocks.SCRATCH] <= 2 * conv_cuts.SCRATCH_BYTES


def test_tables_name_cells_once() -> None:
    """Entries of a table are distinct places of w, and the right number of them."""
    axes = [
        conv_blocks.Axis(9, 4, 3, -1, 2, 1, 7, 5, 3),
        conv_blocks.Axis(7, 7, 3, -1, 1, 1, 1, 1, 1),
    ]
    strides = conv_blocks.Strides(0, 63)
    problem = conv_blocks.Problem(
        "float32", 1, 5, 4, conv_blocks.simplified(axes), strides, strides, strides, 9
    )
    cut = conv_cuts.cut_product(problem, 2)
    table = cut.table()
    assert table.shape == (5 * 9, 2)
    assert len(set(table[:, 1].tolist())) == len(set(table[:, 0].tolist())) == 45
    assert math.prod(cut.tiling.along) == cut.tiling.tiles
