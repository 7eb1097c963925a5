"""Random numbers from kernels are those of the NumPy meaning, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_engine.codegen import prelude
from gradwire_engine.codegen.lowering.random import lower_rand_uniform
from gradwire_engine.ir import Type
from gradwire_engine.ops.sources import RandUniform

from .emitted import Array, Emitted

MANY = 20_011 if prelude.JIT else 211
SEEDS = np.array([[1, -2, 2**62], [-(2**63), 0, 123456789]], np.int64)


def draw(
    op: RandUniform, seeds: Array | None = None, order: tuple[int, ...] | None = None
) -> Array:
    """The numbers of an op's kernel."""
    lab = Emitted()
    shape = op.shape if seeds is None else (*seeds.shape, *op.shape)
    result = lab.output(Type(shape, op.dtype), order)
    operands = [] if seeds is None else [lab.input(seeds)]
    assert lower_rand_uniform(lab.emit, op, operands, result)
    lab.run()
    return lab.array(result)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "seed", "stream"),
    [((MANY,), 42, 3), ((3, 5, 7), 2**64 - 1, 2**64 - 5), ((), 0, 0), ((1,), 2**63, 1)],
)
def test_numbers_of_a_seed_in_the_graph(
    shape: tuple[int, ...], seed: int, stream: int, dtype: str
) -> None:
    op = RandUniform(shape, seed, stream, dtype)
    np.testing.assert_array_equal(draw(op), op.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (2,), (17, 3), (MANY // 10,)])
def test_numbers_of_seeds_given_to_a_run(shape: tuple[int, ...], dtype: str) -> None:
    op = RandUniform(shape, None, 2**63 + 7, dtype)
    with np.errstate(over="ignore"):
        for seeds in (SEEDS, SEEDS.T, np.array(-2)):
            np.testing.assert_array_equal(draw(op, seeds), op.numpy(seeds))


def test_results_may_be_strided_and_empty() -> None:
    op = RandUniform((4, 6), 5, 1)
    np.testing.assert_array_equal(draw(op, order=(1, 0)), op.numpy())
    assert draw(RandUniform((3, 0), 5)).size == 0
    assert draw(RandUniform((3,), None), np.zeros((0, 2), np.int64)).size == 0
