"""How reductions are accumulated, and how the partial results of chunks become one.

Sums in float32 run in blocks that are added up in float64, so that a sum of n terms has an error of
a few roundings of the sum of magnitudes, whatever n is.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import ITEMSIZE
from .emit import Emitter
from .expressions import SUFFIX
from .program import Kernel, Layout, Operand, chunks_for

NEUTRAL = {
    ("sum", "f32"): "f32(0)",
    ("sum", "f64"): "f64(0)",
    ("sum", "i64"): "i64(0)",
    ("max", "f32"): "f32(-np.inf)",
    ("max", "f64"): "f64(-np.inf)",
    ("max", "i64"): "i64(-0x8000000000000000)",
    ("min", "f32"): "f32(np.inf)",
    ("min", "f64"): "f64(np.inf)",
    ("min", "i64"): "i64(0x7FFFFFFFFFFFFFFF)",
}

WIDTH = {suffix: ITEMSIZE[dtype] for dtype, suffix in SUFFIX.items()}
"""Bytes of an element, by the suffix of its dtype."""


@dataclass(frozen=True)
class Total:
    """The running result of a reduction.

    Attributes:
        how: ``sum``, ``max`` or ``min``.
        kind: Suffix of the operand's dtype.
    """

    how: str
    kind: str

    @property
    def blocked(self) -> bool:
        """Whether terms are added up in blocks first."""
        return self.how == "sum" and self.kind == "f32"

    @property
    def wide(self) -> str:
        """Suffix of the dtype that totals have: float64 for sums of float32."""
        return "f64" if self.blocked else self.kind

    @property
    def neutral(self) -> str:
        """What a total starts from."""
        return NEUTRAL[self.how, self.wide]

    def add(self, total: str, term: str) -> str:
        """The expression for a total, or a block, with one more term."""
        if self.how == "sum":
            return f"accumulate({total}, {term})" if self.kind[0] == "f" else f"{total} + {term}"
        if self.kind[0] == "f":
            return f"{self.how}imum({total}, {term})"
        symbol = ">" if self.how == "max" else "<"
        return f"select({term} {symbol} {total}, {term}, {total})"


def run_bytes(elements: int, kind: str) -> int:
    """Bytes of a chunk's own array, whole cache lines."""
    return -(-elements * WIDTH[kind] // 64) * 64


def emit_combine(
    emit: Emitter,
    partial: Layout | Operand,
    total: Total,
    result: Layout,
    chunks: int,
    elements: int,
) -> None:
    """Append the call that makes one result of the totals that chunks have left.

    Args:
        emit: Where the call goes.
        partial: The totals, one array of `elements` a chunk, `run_bytes` apart.
        total: What they are.
        result: Where the result goes.
        chunks: How many there are.
        elements: How many elements the result has.
    """
    kind = SUFFIX[result.dtype]
    name = f"combine_{total.how}_{total.wide}" + ("" if kind == total.wide else f"_{kind}")
    text = f"from gradwire_engine.codegen.kernels.combine import {name} as kernel\n"
    emit.call(
        Kernel(text, "combine partial results"),
        [partial, result],
        [chunks, run_bytes(elements, total.wide)],
        count=elements,
        chunks=chunks_for(elements, elements * chunks * 0.5, emit.threads),
        writes=[1],
    )
