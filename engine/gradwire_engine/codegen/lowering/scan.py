"""How `cumsum`, `argmax` and `argmin` run: along one axis, in parallel over the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir import Type
from ..emit import Emitter
from ..program import Kernel, Layout, Operand, chunks_for, dense
from ..views import reshaped

MOST_COLUMNS, FEWEST_COLUMNS = 256, 16


def lower_cumsum(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """Running sums along an axis."""
    return _lower(emit, "cumsum", str(op.reverse), op.axis, operands[0], result)


def lower_position(emit: Emitter, op: Any, operands: Sequence[Layout], result: Layout) -> bool:
    """The position of the first extreme along an axis."""
    how = op.name.removeprefix("arg")
    return _lower(emit, "position", repr(how), op.axis, operands[0], result)


def _lower(emit: Emitter, name: str, how: str, axis: int, x: Layout, result: Layout) -> bool:
    """Call ``make_<name>_row`` for the last axis, or ``make_<name>`` for another."""
    if result.type.size == 0:
        return True
    axis %= len(x.shape)
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    seen = reshaped(x, (outer, n, inner))
    if seen is None:
        seen = dense(emit.densify(x).buffer, Type((outer, n, inner), x.dtype))
    target = result if result.is_dense else emit.value(result.type)
    columns = min(MOST_COLUMNS, inner)
    if outer * -(-inner // columns) < emit.threads:
        columns = max(FEWEST_COLUMNS, -(-inner // emit.threads))
    count = outer * -(-inner // columns)
    chunks = chunks_for(count, x.type.size, emit.threads)
    scratch = []
    if inner == 1:
        maker, text = f"make_{name}_row", f"{x.dtype!r}, {how}"
    else:
        maker, text = f"make_{name}", f"{x.dtype!r}, {how}, {1 if seen.strides[2] == 1 else None}"
        scratch = [Operand(emit.scratch(chunks * 8 * columns))]
    emit.call(
        Kernel(
            f"from gradwire_engine.codegen.kernels.scan import {maker}\nkernel = {maker}({text})\n",
            title=f"{name} {x.type}",
        ),
        [seen, target, *scratch],
        [n, inner, *seen.strides, columns],
        count=count,
        chunks=chunks,
        writes=range(1, 2 + len(scratch)),
    )
    if target is not result:
        emit.copy(target, result)
    return True


LOWERINGS = {"argmax": lower_position, "argmin": lower_position, "cumsum": lower_cumsum}
