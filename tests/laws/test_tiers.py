"""Both tiers agree: every row of the laws in every mode, special values and random programs too.

With ``NUMBA_DISABLE_JIT=1`` the kernels run as Python functions, and the same must hold.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gradwire_engine import transform

from .case import Array
from .harness import IDS, differentiable, subject
from .programs import Program, programs, reductions
from .tiers import agree

pytestmark = pytest.mark.slow

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
DTYPES = ("float32", "float64")
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0)

# Each random program needs kernels of its own, and those take a second to compile.
some = settings(
    max_examples=6 if JIT else 60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

rows = pytest.mark.parametrize("row", range(len(IDS)), ids=IDS)
derivable = pytest.mark.parametrize(
    "row", [pytest.param(i, id=IDS[i]) for i in range(len(IDS)) if differentiable(i)]
)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@dtypes
@rows
def test_forward(row: int, dtype: str) -> None:
    case = subject(row, dtype)
    agree(case.graph, case.arrays)


@dtypes
@derivable
def test_jvp(row: int, dtype: str) -> None:
    case = subject(row, dtype)
    agree(case.jvp, [*case.arrays, *case.directions])


@dtypes
@derivable
def test_vjp(row: int, dtype: str) -> None:
    case = subject(row, dtype)
    agree(case.vjp, [*case.arrays, case.cotangent])


@dtypes
@rows
def test_special_values(row: int, dtype: str) -> None:
    case = subject(row, dtype)
    # A weight that is not finite may or may not meet the zeros of the padding of a convolution.
    spared = "w" if "conv" in case.op.name else ""
    arrays = [
        a if case.op.base_operand(i) == spared else sprinkled(a, case.seed + i)
        for i, a in enumerate(case.arrays)
    ]
    agree(case.graph, arrays)


@some
@given(programs(smooth=False))
def test_random_programs(p: Program) -> None:
    agree(p.graph, p.arrays)
    seeds = p.like(p.graph, ["y", "z"], 2)
    agree(transform.vjp(p.graph, p.wrt), [*p.arrays, *seeds])


@some
@given(reductions())
def test_reductions_along_changing_axes(p: Program) -> None:
    agree(p.graph, p.arrays)
    outputs = [name for name, _ in p.graph.outputs]
    agree(transform.vjp(p.graph, p.wrt, outputs), [*p.arrays, *p.like(p.graph, outputs, 2)])


@pytest.mark.first
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not JIT, reason="this is the run without the JIT")
def test_all_of_it_without_the_jit() -> None:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def sprinkled(array: Array, seed: int) -> Array:
    """A float array with special values in a few random places."""
    if array.dtype.kind != "f" or not array.size:
        return array
    rng = np.random.default_rng(zlib.crc32(str(seed).encode()))
    result = array.copy()
    places = rng.integers(0, array.size, min(5, 1 + array.size // 4))
    result.reshape(-1)[places] = rng.permutation(SPECIAL)[: len(places)]
    return result
