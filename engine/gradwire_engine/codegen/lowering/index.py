"""How `take` and `scatter_add` run: rows copied from, and added to, positions known in a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir import ITEMSIZE, Type
from ..emit import Emitter
from ..program import Kernel, Layout, Operand, chunks_for, dense
from ..views import reshaped
from .move import lower_fill

EXACT_UPDATES = 64
"""So few float32 numbers may be added up one by one."""

SUMS_BYTES = 1 << 18


def lower_take(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """Row by row; x may lie strided, as long as its axes before and behind run together."""
    x, indices = operands
    if result.type.size == 0:
        return True
    if x.type.size == 0:
        lower_fill(emit, 0, result)
        return True
    samples, blocks, n, inner = _parts(op, x)
    k = indices.type.size // samples
    seen = reshaped(x, (samples, blocks, n, inner))
    if seen is None:
        seen = dense(emit.densify(x).buffer, Type((samples, blocks, n, inner), x.dtype))
    target = result if result.is_dense else emit.value(result.type)
    width, count = ITEMSIZE[x.dtype], samples * blocks * k
    text = f"make_take({width}, {1 if inner == 1 else None}, {1 if seen.strides[3] == 1 else None})"
    words = [k, blocks, n, inner, *seen.strides]
    if k == blocks == inner == 1:
        text, words = f"make_pick_each({width})", [n, seen.strides[0], seen.strides[2]]
    emit.call(
        _kernel(text),
        [seen, emit.densify(indices), target],
        words,
        count=count,
        chunks=chunks_for(count, count * (2 + inner * width / 8), emit.threads),
        writes=[2],
    )
    if target is not result:
        emit.copy(target, result)
    return True


def lower_scatter_add(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """In parallel over rows of the result; float32 adds up many updates in float64."""
    x, indices, updates = operands
    if result.type.size == 0:
        return True
    if updates.type.size == 0:
        emit.copy(x, result)
        return True
    samples, blocks, n, inner = _parts(op, x)
    k = indices.type.size // samples
    uniform = not any(s for s, size in zip(x.strides, x.shape, strict=True) if size > 1)
    read = [x if uniform else emit.densify(x), emit.densify(indices), emit.densify(updates)]
    target = result if result.is_dense else emit.value(result.type)
    count = samples * blocks * n
    cost = (x.type.nbytes + 2 * updates.type.nbytes) / 8 + 2 * indices.type.size * blocks
    chunks = chunks_for(count, cost, emit.threads)
    text = f"make_scatter_add({x.dtype!r}, {uniform})"
    scratch: list[Operand] = []
    extra: list[int] = []
    if x.dtype == "float32" and k > EXACT_UPDATES:
        # Positions are looked at anew for every so many rows; that should not outweigh the adding.
        most = 1 + (n + k) * inner // k
        rows = min(-(-count // chunks), n, max(SUMS_BYTES // (8 * inner), -(-n // most)))
        nbytes = -(-8 * rows * inner // 64) * 64
        text, extra = f"make_scatter_sum({uniform})", [nbytes, rows]
        scratch = [Operand(emit.scratch(chunks * nbytes))]
    emit.call(
        _kernel(text),
        [*read, target, *scratch],
        [n, inner, k, blocks, *extra],
        count=count,
        chunks=chunks,
        writes=range(3, 4 + len(scratch)),
        reuse=() if uniform else ((3, 0),),
    )
    if target is not result:
        emit.copy(target, result)
    return True


def _parts(op: Any, x: Layout) -> tuple[int, int, int, int]:
    """Sizes of x seen as [samples, blocks of a sample, positions, inner]."""
    axis = op.axis % len(x.shape)
    shape = x.shape
    return (
        math.prod(shape[: op.batch]),
        math.prod(shape[op.batch : axis]),
        shape[axis],
        math.prod(shape[axis + 1 :]),
    )


def _kernel(text: str) -> Kernel:
    name = text.partition("(")[0]
    source = f"from gradwire_engine.codegen.kernels.index import {name}\nkernel = {text}\n"
    return Kernel(source, title=name.removeprefix("make_"))


LOWERINGS = {"scatter_add": lower_scatter_add, "take": lower_take}
