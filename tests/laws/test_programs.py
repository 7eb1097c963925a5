"""The laws on random programs: what holds for every op also holds for what is made of them."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gradwire_engine import passes, transform, verify
from gradwire_engine.ir import Graph

from .harness import adjoint, central, close, moved, norm, reappended, run, samples
from .programs import Program, programs

pytestmark = pytest.mark.slow

# GRADWIRE_LAW_EXAMPLES asks for that many programs a law, new ones each time.
EXAMPLES = int(os.environ.get("GRADWIRE_LAW_EXAMPLES", "0"))
many = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@many
@given(programs(smooth=True))
def test_differences(p: Program) -> None:
    directions = [np.sign(a) * 0.5 for a in p.arrays]
    everything = range(len(p.arrays))

    def along(t: float) -> list[np.ndarray]:
        return run(p.graph, moved(p.arrays, everything, directions, t))

    tangents = run(transform.jvp(p.graph, p.wrt), [*p.arrays, *directions])[2:]
    for actual, expected in zip(tangents, central(along), strict=True):
        close(actual, expected, 1e-6, 1e-8)


@many
@given(programs(smooth=False))
def test_adjoint(p: Program) -> None:
    directions = p.like(
        p.graph.with_outputs((s.name, i) for i, s in enumerate(p.graph.inputs)), p.wrt, 1
    )
    seeds = p.like(p.graph, ["y", "z"], 2)
    pushed = run(transform.jvp(p.graph, p.wrt), [*p.arrays, *directions])[2:]
    pulled = run(transform.vjp(p.graph, p.wrt), [*p.arrays, *seeds])[2:]
    adjoint(pushed, seeds, directions, pulled)


@many
@given(programs(smooth=True))
def test_second_order(p: Program) -> None:
    first = passes.tidy(transform.vjp(p.graph, p.wrt))
    seeds = p.like(p.graph, ["y", "z"], 3)
    directions = [np.cos(a) * 0.5 for a in p.arrays]
    everything = range(len(p.arrays))

    def along(t: float) -> list[np.ndarray]:
        return run(first, [*moved(p.arrays, everything, directions, t), *seeds])[2:]

    second = verify.verify(transform.jvp(first, p.wrt))
    count = len(p.wrt)
    tangents = run(second, [*p.arrays, *seeds, *directions])[-count:]
    expected = central(along)
    for a, b in zip(tangents, expected, strict=True):
        close(a, b, 1e-6, 1e-7 * max(1.0, norm(expected)))


@many
@given(programs(smooth=False))
def test_vmap(p: Program) -> None:
    gradient = passes.tidy(transform.vjp(p.graph, p.wrt))
    seeds = p.like(p.graph, ["y", "z"], 4)
    rng = np.random.default_rng(p.seed)
    for graph, arrays in ((p.graph, p.arrays), (gradient, [*p.arrays, *seeds])):
        mapped = {i: 0 for i in range(len(arrays)) if i == 0 or rng.random() < 0.5}
        batch = [
            np.stack([a + 0.1 * k for k in range(3)]) if i in mapped else a
            for i, a in enumerate(arrays)
        ]
        _equals_loop(graph, batch, mapped)


def _equals_loop(graph: Graph, batch: list[np.ndarray], mapped: dict[int, int]) -> None:
    names = {graph.inputs[i].name: axis for i, axis in mapped.items()}
    together = run(verify.verify(transform.vmap(graph, 3, names)), batch)
    for k in range(3):
        alone = run(graph, samples(batch, mapped, k))
        for a, b in zip(together, alone, strict=True):
            close(a[k], b, 1e-11, 1e-11)


@many
@given(programs(smooth=False))
def test_passes_and_reappending(p: Program) -> None:
    seeds = p.like(p.graph, ["y", "z"], 5)
    derived = verify.verify(transform.vjp(p.graph, p.wrt))
    plain = run(derived, [*p.arrays, *seeds])
    for other in (
        passes.optimize(derived, verify.verify),
        passes.tidy(derived),
        reappended(derived),
    ):
        for a, b in zip(run(other, [*p.arrays, *seeds]), plain, strict=True):
            close(a, b, 1e-12, 1e-13)


@many
@given(programs(smooth=False))
def test_linearization(p: Program) -> None:
    split = transform.linearize(p.graph, p.wrt)
    residuals = run(split.residual, p.arrays)
    directions = [np.sin(a) for a in p.arrays]
    expected = run(transform.jvp(p.graph, p.wrt), [*p.arrays, *directions])[2:]
    for a, b in zip(run(split.tangent, [*residuals, *directions]), expected, strict=True):
        close(a, b, 1e-12, 1e-13)
