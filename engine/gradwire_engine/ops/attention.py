"""Attention: a composite over `dot_general` and the masked softmax, without a rule of its own."""

from __future__ import annotations

import math

from ..ir import Type, Value
from . import checks
from .attributes import BoolArray, Positive
from .base import Composite
from .elementwise import Scale
from .linalg import DotGeneral
from .nn import masked_softmax
from .shape import BroadcastTo, Reshape, Transpose
from .sources import literal


class MultiHeadAttention(
    Composite,
    inputs=("wq", "wk", "wv", "wo", "x", "mask?"),
    graphm="multiHeadAttention",
):
    """Self-attention of the n rows of ``x`` with ``num_heads`` heads.

    Per head, softmax(q k^T / sqrt(hd)) v with q, k, v = x wq, x wk, x wv; the heads side by side
    are multiplied by wo. ``mask`` (bool [n,n], operand or attribute) says which row may attend to
    which column; a row that may attend to none yields zeros, and its derivative is zero.
    """

    num_heads: Positive
    mask: BoolArray | None = None

    def typing(
        self, wq: Type, wk: Type, wv: Type, wo: Type, x: Type, mask: Type | None = None
    ) -> Type:
        if self.mask is not None and mask is not None:
            raise self.invalid("mask", "the mask is given as an operand already")
        checks.floats(self, wq=wq, wk=wk, wv=wv, wo=wo, x=x)
        if mask is not None:
            checks.dtypes(self, ("bool",), mask=mask)
        checks.rank(self, "wq", wq, 2, ["D", "H*hd"])
        width, inner = wq.shape
        if inner % self.num_heads:
            reason = f"the last size must be a multiple of num_heads, which is {self.num_heads}"
            raise self.mismatch("wq", ["D", "H*hd"], wq, reason)
        for name, t in (("wk", wk), ("wv", wv)):
            if t.shape != wq.shape:
                raise self.mismatch(name, wq.shape, t)
        if wo.shape != (inner, width):
            raise self.mismatch("wo", (inner, width), wo)
        if x.rank != 2 or x.shape[1] != width:
            raise self.mismatch("x", ["n", width], x)
        rows = x.shape[0]
        shape = mask.shape if mask is not None else self._literal_shape()
        if shape is not None and shape != (rows, rows):
            raise self.mismatch("mask", (rows, rows), shape)
        return x

    def _literal_shape(self) -> tuple[int, ...] | None:
        return None if self.mask is None else tuple(self.mask.array.shape)

    def expand(
        self, wq: Value, wk: Value, wv: Value, wo: Value, x: Value, mask: Value | None = None
    ) -> Value:
        rows, heads = x.shape[0], self.num_heads
        if rows == 0:
            return x
        depth = wq.shape[1] // heads
        q, k, v = (Reshape((rows, heads, depth))(matmul(x, w)) for w in (wq, wk, wv))
        q = Scale(1 / math.sqrt(max(depth, 1)))(q)
        scores = DotGeneral(contract=((2,), (2,)), batch=((1,), (1,)))(q, k)
        if mask is None and self.mask is not None:
            mask = literal(x.builder, self.mask.array)
        if mask is not None:
            mask = BroadcastTo(scores.shape)(mask)
        attended = DotGeneral(contract=((2,), (0,)), batch=((0,), (1,)))(
            masked_softmax(scores, mask), v
        )
        side_by_side = Reshape((rows, heads * depth))(Transpose((1, 0, 2))(attended))
        return matmul(side_by_side, wo)


def matmul(a: Value, b: Value) -> Value:
    """The matrix product of two matrices."""
    return DotGeneral(contract=((1,), (0,)))(a, b)
