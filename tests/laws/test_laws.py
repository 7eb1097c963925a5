"""The laws that every op keeps, on every row of the tables.

A row is an op with attributes and operands (`case.py`); a law is a statement that holds for all of
them. Derivative laws run in float64 away from kinks; what happens at kinks, ties and NaN is
in the tables of `tests/engine`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradwire_engine import passes, runtime, transform, verify
from gradwire_engine.ir import Graph, GraphBuilder

from .case import Array, draw
from .harness import (
    IDS,
    Subject,
    adjoint,
    central,
    close,
    differentiable,
    frozen,
    moved,
    norm,
    reappended,
    run,
    samples,
    subject,
)
from .rows import ROWS

every_row = pytest.mark.parametrize("row", range(len(ROWS)), ids=IDS)
moving = [r for r in range(len(ROWS)) if differentiable(r)]
every_moving_row = pytest.mark.parametrize("row", moving, ids=[IDS[r] for r in moving])
smooth = [r for r in moving if ROWS[r].order >= 1]
every_smooth_row = pytest.mark.parametrize("row", smooth, ids=[IDS[r] for r in smooth])
twice = [r for r in smooth if ROWS[r].order >= 2]
every_twice_smooth_row = pytest.mark.parametrize("row", twice, ids=[IDS[r] for r in twice])


# -- typing ----------------------------------------------------------------------------------------


@every_row
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_typing_is_what_numpy_gives(row: int, dtype: str) -> None:
    s = subject(row, dtype)
    (y,) = run(s.graph, s.arrays)
    assert (y.shape, y.dtype.name) == (s.y.shape, s.y.dtype)


def test_rows_with_integers_keep_them() -> None:
    rows = [r for r, case in enumerate(ROWS) if case.integers]
    assert rows
    for row in rows:
        s = Subject(ROWS[row], "int64")
        (y,) = run(s.graph, s.arrays)
        assert (y.shape, y.dtype.name) == (s.y.shape, s.y.dtype)
        assert not s.y.type.is_float


@every_row
def test_a_composite_has_the_type_of_its_expansion(row: int) -> None:
    s = subject(row, "float32")
    lowered = verify.verify(transform.lower(s.graph).graph)
    assert all(node.op.kind == "primitive" for node in lowered.nodes)
    assert lowered.type_of(lowered.outputs[0][1]) == s.y.type


@pytest.mark.slow
@every_moving_row
def test_float32_derivatives_are_float32_and_near_the_float64_ones(row: int) -> None:
    wide, narrow = subject(row), subject(row, "float32")
    tangent = narrow.push([d.astype(narrow.arrays[i].dtype) for d, i in _pairs(wide)])
    gradients = narrow.pull(wide.cotangent.astype(narrow.y.dtype))
    assert tangent.dtype.name == narrow.y.dtype
    close(tangent, wide.push(wide.directions).astype(narrow.y.dtype), 2e-4, 1e-5)
    for i, a, b in zip(wide.floats, gradients, wide.pull(wide.cotangent), strict=True):
        assert a.dtype == narrow.arrays[i].dtype
        close(a, b.astype(a.dtype), 2e-4, 1e-5)


def _pairs(s: Subject) -> list[tuple[Array, int]]:
    return list(zip(s.directions, s.floats, strict=True))


# -- first derivatives -----------------------------------------------------------------------------


@every_smooth_row
def test_jvp_is_the_limit_of_differences(row: int) -> None:
    s = subject(row)

    def along(t: float) -> list[Array]:
        return run(s.graph, moved(s.arrays, s.floats, s.directions, t))

    (expected,) = central(along)
    close(s.push(s.directions), expected, 1e-6, 1e-9)


@every_moving_row
def test_vjp_is_the_adjoint_of_jvp(row: int) -> None:
    s = subject(row)
    dy, gradients = s.push(s.directions), s.pull(s.cotangent)
    adjoint([dy], [s.cotangent], s.directions, gradients)


@every_moving_row
def test_derived_graphs_compute_the_same_values(row: int) -> None:
    s = subject(row)
    (y,) = run(s.graph, s.arrays)
    np.testing.assert_array_equal(run(s.jvp, [*s.arrays, *s.directions])[0], y)
    np.testing.assert_array_equal(run(s.vjp, [*s.arrays, s.cotangent])[0], y)


@every_moving_row
def test_jvp_is_linear_in_the_tangent(row: int) -> None:
    s = subject(row)
    other = [s.tangent_like(d) for d in s.directions]
    both = [frozen(3 * a - 2 * b) for a, b in zip(s.directions, other, strict=True)]
    one, two = s.push(s.directions), s.push(other)
    close(s.push(both), 3 * one - 2 * two, 1e-11, 1e-12 * norm([one, two]))


@pytest.mark.slow
@every_moving_row
def test_the_tangent_is_the_sum_over_operands(row: int) -> None:
    s = subject(row)
    parts = np.zeros(s.y.shape, s.y.dtype)
    gradients = s.pull(s.cotangent)
    for i, name in enumerate(s.wrt):
        alone = verify.verify(transform.jvp(s.graph, [name]))
        parts = parts + run(alone, [*s.arrays, s.directions[i]])[1]
        single = verify.verify(transform.vjp(s.graph, [name]))
        close(run(single, [*s.arrays, s.cotangent])[1], gradients[i], 1e-12, 1e-14)
    whole = s.push(s.directions)
    close(parts, whole, 1e-11, 1e-12)


@every_moving_row
def test_vjp_of_a_sum_is_the_sum_of_vjps(row: int) -> None:
    s = subject(row)
    builder = GraphBuilder(inputs=list(s.graph.inputs))
    operands = [builder.value(i) for i in range(len(s.names))]
    y = builder.apply(s.op, *operands)
    z = y * 0.5 + 1.0
    apart = transform.vjp(builder.graph([("y", y), ("z", z)]), s.wrt)
    together = transform.vjp(builder.graph([("sum", y + z)]), s.wrt)
    zero = frozen(np.zeros_like(s.cotangent))
    by_y = run(apart, [*s.arrays, s.cotangent, zero])[2:]
    by_z = run(apart, [*s.arrays, zero, s.cotangent])[2:]
    by_sum = run(together, [*s.arrays, s.cotangent])[1:]
    for a, b, c in zip(by_y, by_z, by_sum, strict=True):
        close(c, a + b, 1e-12 + s.rounding, 1e-14)


# -- second derivatives ----------------------------------------------------------------------------


@every_twice_smooth_row
def test_jvp_of_vjp_is_the_limit_of_differences(row: int) -> None:
    s = subject(row)
    second = verify.verify(transform.jvp(s.vjp, s.wrt))

    def along(t: float) -> list[Array]:
        return run(s.vjp, [*moved(s.arrays, s.floats, s.directions, t), s.cotangent])[1:]

    count = len(s.wrt)
    tangents = run(second, [*s.arrays, s.cotangent, *s.directions])[-count:]
    scale = norm(s.pull(s.cotangent))
    for actual, expected in zip(tangents, central(along), strict=True):
        close(actual, expected, 1e-6, 1e-9 * max(scale, 1))


@pytest.mark.slow
@every_moving_row
def test_vjp_of_vjp_is_its_adjoint(row: int) -> None:
    s = subject(row)
    wrt = [*s.wrt, "cotangent.y"]
    forward = verify.verify(transform.jvp(s.vjp, wrt))
    reverse = verify.verify(transform.vjp(s.vjp, wrt))
    count = len(s.wrt) + 1
    directions = [*s.directions, s.tangent_like(s.cotangent)]
    moves = run(forward, [*s.arrays, s.cotangent, *directions])[-count:]
    seeds = [s.tangent_like(m) for m in moves]
    pulled = run(reverse, [*s.arrays, s.cotangent, *seeds])[-count:]
    adjoint(moves, seeds, directions, pulled)


@pytest.mark.slow
@every_moving_row
def test_vjp_of_jvp_is_its_adjoint(row: int) -> None:
    s = subject(row)
    wrt = [*s.wrt, *(f"tangent.{name}" for name in s.wrt)]
    forward = verify.verify(transform.jvp(s.jvp, wrt))
    reverse = verify.verify(transform.vjp(s.jvp, wrt))
    point = [*s.arrays, *s.directions]
    point_floats = [*(s.arrays[i] for i in s.floats), *s.directions]
    directions = [s.tangent_like(d) for d in point_floats]
    moves = run(forward, [*point, *directions])[-2:]
    seeds = [s.tangent_like(m) for m in moves]
    pulled = run(reverse, [*point, *seeds])[-len(wrt) :]
    adjoint(moves, seeds, directions, pulled)


@pytest.mark.slow
@every_moving_row
def test_linearize_is_the_jvp_in_two_parts(row: int) -> None:
    s = subject(row)
    split = transform.linearize(s.graph, s.wrt)
    verify.verify(split.residual)
    verify.verify(split.tangent)
    residuals = run(split.residual, s.arrays)
    (dy,) = run(split.tangent, [*residuals, *s.directions])
    close(dy, s.push(s.directions), 1e-12)


# -- batching --------------------------------------------------------------------------------------


def _subsets(count: int) -> list[tuple[int, ...]]:
    return [c for n in range(1, count + 1) for c in itertools.combinations(range(count), n)]


def _vmap_equals_loop(
    s: Subject, graph: Graph, arrays: Sequence[Array], axes: dict[int, int], size: int
) -> None:
    """`arrays` hold the mapped operands already batched."""
    names = [spec.name for spec in graph.inputs]
    batched = verify.verify(
        transform.vmap(graph, size, {names[i]: axis for i, axis in axes.items()})
    )
    together = run(batched, arrays)
    alone = [run(graph, samples(arrays, axes, k)) for k in range(size)]
    for i, y in enumerate(together):
        one = graph.type_of(graph.outputs[i][1])
        assert y.shape == (size, *one.shape)
        assert y.dtype.name == one.dtype
        for k in range(size):
            close(y[k], alone[k][i], 1e-12, 1e-14)


def _batch(s: Subject, arrays: Sequence[Array], axes: dict[int, int], size: int) -> list[Array]:
    """Batches of the row's operands, and of tangents or cotangents after them, drawn anew."""
    rng = np.random.default_rng([s.seed, size, *axes])
    result = []
    for i, a in enumerate(arrays):
        if i not in axes:
            result.append(a)
            continue
        draws = [
            draw(s.case.operands[i], rng, "float64")
            if i < len(s.arrays)
            else rng.uniform(-1, 1, a.shape)
            for _ in range(size)
        ]
        batch = np.stack([*draws, np.zeros(a.shape)], axis=axes[i])
        result.append(frozen(np.delete(batch, -1, axis=axes[i]).astype(a.dtype)))
    return result


@pytest.mark.slow
@every_row
def test_vmap_is_a_loop(row: int) -> None:
    s = subject(row)
    for subset in _subsets(len(s.arrays)):
        axes = dict.fromkeys(subset, 0)
        _vmap_equals_loop(s, s.graph, _batch(s, s.arrays, axes, 3), axes, 3)
    if s.arrays:
        everything = tuple(range(len(s.arrays)))
        last = dict.fromkeys(everything, -1)
        _vmap_equals_loop(s, s.graph, _batch(s, s.arrays, last, 3), last, 3)
        for size in (0, 1):
            axes = dict.fromkeys(everything, 0)
            _vmap_equals_loop(s, s.graph, _batch(s, s.arrays, axes, size), axes, size)


@pytest.mark.slow
@every_moving_row
def test_vmap_of_vjp_is_a_loop(row: int) -> None:
    s = subject(row)
    arrays = [*s.arrays, s.cotangent]
    everything = range(len(arrays))
    for subset in {tuple(everything), tuple(everything[:-1]), tuple(everything[-1:])}:
        axes = dict.fromkeys(subset, 0)
        _vmap_equals_loop(s, s.vjp, _batch(s, arrays, axes, 3), axes, 3)


@pytest.mark.slow
@every_moving_row
def test_vmap_of_jvp_is_a_loop(row: int) -> None:
    s = subject(row)
    arrays = [*s.arrays, *s.directions]
    for subset in (range(len(arrays)), range(len(s.arrays), len(arrays))):
        axes = dict.fromkeys(subset, 0)
        _vmap_equals_loop(s, s.jvp, _batch(s, arrays, axes, 2), axes, 2)


@pytest.mark.slow
@every_moving_row
def test_vjp_of_vmap_is_vmap_of_vjp(row: int) -> None:
    s = subject(row)
    size, axes = 2, dict.fromkeys(range(len(s.arrays)), 0)
    arrays = _batch(s, [*s.arrays, s.cotangent], {**axes, len(axes): 0}, size)
    inside = transform.vmap(s.vjp, size, dict.fromkeys([*s.names, "cotangent.y"], 0))
    outside = transform.vjp(transform.vmap(s.graph, size, dict.fromkeys(s.names, 0)), s.wrt)
    for a, b in zip(run(inside, arrays), run(verify.verify(outside), arrays), strict=True):
        close(a, b, 1e-12, 1e-14)


# -- passes and the wire ---------------------------------------------------------------------------


def _same_results(graph: Graph, other: Graph, arrays: Sequence[Array]) -> None:
    assert [n for n, _ in graph.outputs] == [n for n, _ in other.outputs]
    for a, b in zip(run(other, arrays), run(graph, arrays), strict=True):
        close(a, b, 1e-13, 1e-15)


@every_row
def test_passes_change_nothing(row: int) -> None:
    s = subject(row)
    _same_results(s.graph, passes.optimize(s.graph, verify.verify), s.arrays)
    if s.differentiable:
        point = [*s.arrays, s.cotangent]
        _same_results(s.vjp, passes.optimize(s.vjp, verify.verify), point)
        _same_results(s.vjp, verify.verify(passes.tidy(s.vjp)), point)
        pushed = [*s.arrays, *s.directions]
        _same_results(s.jvp, passes.optimize(s.jvp, verify.verify), pushed)


@pytest.mark.slow
@every_row
def test_passes_settle(row: int) -> None:
    s = subject(row)
    graph = s.vjp if s.differentiable else s.graph
    once = passes.optimize(graph)
    assert len(passes.optimize(once).nodes) <= len(once.nodes)


@every_row
def test_reappended_nodes_give_the_same_results(row: int) -> None:
    s = subject(row)
    derived: list[tuple[Graph, list[Any]]] = [(s.graph, s.arrays)]
    if s.arrays:
        axes = dict.fromkeys(range(len(s.arrays)), 0)
        batched = transform.vmap(s.graph, 2, dict.fromkeys(s.names, 0))
        derived.append((batched, _batch(s, s.arrays, axes, 2)))
    if s.differentiable:
        derived.append((s.jvp, [*s.arrays, *s.directions]))
        derived.append((s.vjp, [*s.arrays, s.cotangent]))
    for graph, arrays in derived:
        for a, b in zip(run(reappended(graph), arrays), run(graph, arrays), strict=True):
            np.testing.assert_array_equal(a, b)


@every_row
def test_operands_are_not_written_to(row: int) -> None:
    # `run` hands over read-only arrays, so an op that writes would have failed; here the arrays
    # are writable, and results must not share memory with them either.
    s = subject(row)
    graph = s.vjp if s.differentiable else s.graph
    given = [*s.arrays, s.cotangent] if s.differentiable else s.arrays
    arrays = [a.copy() for a in given]
    results = runtime.interpret(graph, arrays)
    for before, after in zip(given, arrays, strict=True):
        np.testing.assert_array_equal(before, after)
        assert not any(np.shares_memory(after, y) for y in results)
