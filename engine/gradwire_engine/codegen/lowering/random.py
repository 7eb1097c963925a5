"""Pseudo-random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..emit import Emitter
from ..program import Kernel, Layout, Operand, chunks_for

_KERNELS = {
    dtype: Kernel(
        f"from gradwire_engine.codegen.kernels.random import fill_{suffix} as kernel\n",
        title=f"rand_uniform {dtype}",
    )
    for dtype, suffix in (("float32", "f32"), ("float64", "f64"))
}


def lower_rand_uniform(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """Fill the result with the numbers of the op's seed, or of each seed in its operand."""
    total = result.type.size
    if total == 0:
        return True
    seeds: Layout | Operand
    if operands:
        seeds = emit.densify(operands[0])
    else:
        seeds = Operand(emit.const(np.array([op.seed], np.uint64).view(np.int64)))
    target = result if result.is_dense else emit.value(result.type)
    emit.call(
        _KERNELS[result.dtype],
        [target, seeds],
        [math.prod(op.shape), int(np.uint64(op.stream).astype(np.int64))],
        count=total,
        chunks=chunks_for(total, 0.9 * total, emit.threads),
        writes=[0],
    )
    if target is not result:
        emit.copy(target, result)
    return True


LOWERINGS = {"rand_uniform": lower_rand_uniform}
