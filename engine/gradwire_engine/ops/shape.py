"""The structural primitives: ops that move elements without changing them.

All are linear and take every dtype. The ops made from them (``flatten``, ``stack``,
``slice_range0`` ...) are in `rearrange`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ..ir import Type, Value
from . import checks
from .attributes import (
    Axis,
    IntOrInts,
    Ints,
    NaturalOrNaturals,
    Naturals,
    PositiveOrPositives,
    Real,
)
from .base import Array, Op


class BroadcastTo(Op, inputs=("x",), linear_in=("x",), graphm="broadcastTo"):
    """``x`` repeated to ``shape``.

    Right-aligned as in NumPy, or with ``axes``: entry i is the target axis of source axis i,
    strictly increasing. Source axes of size 1 stretch.
    """

    view: ClassVar[bool] = True

    shape: Naturals
    axes: Naturals | None = None

    def check(self) -> None:
        axes = self.axes
        if axes is not None and any(b <= a for a, b in pairwise(axes)):
            raise self.invalid("axes", "target axes must be strictly increasing")

    def placement(self, x: Type) -> tuple[int, ...]:
        """The target axis of each source axis."""
        if self.axes is not None:
            return self.axes
        return tuple(range(len(self.shape) - x.rank, len(self.shape)))

    def typing(self, x: Type) -> Type:
        if self.axes is not None:
            if len(self.axes) != x.rank:
                raise self.invalid("axes", f"{x.rank} entries are needed, one per axis of x")
            if any(a >= len(self.shape) for a in self.axes):
                raise self.invalid("axes", f"the target has only {len(self.shape)} axes")
        if x.rank > len(self.shape):
            raise self.mismatch("x", self.shape, x, "the target has fewer axes")
        for size, place in zip(x.shape, self.placement(x), strict=True):
            if size not in (1, self.shape[place]):
                raise self.mismatch("x", self.shape, x, "only axes of size 1 stretch")
        return x.with_shape(self.shape)

    def numpy(self, x: Array) -> Array:
        spaced = [1] * len(self.shape)
        for size, place in zip(x.shape, self.placement(Type(x.shape)), strict=True):
            spaced[place] = size
        return np.broadcast_to(x.reshape(spaced), self.shape)

    def transpose_x(self, ct: Value, x: Type) -> Value:
        from .reduce import ReduceSum

        place = self.placement(x)
        stretched = {p for s, p in zip(x.shape, place, strict=True) if s != self.shape[p]}
        summed = tuple(a for a in range(ct.rank) if a not in place or a in stretched)
        total = ReduceSum(summed)(ct) if summed else ct
        return Reshape(x.shape)(total) if total.shape != x.shape else total

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        place = self.placement(x.type.with_shape(x.shape[1:]))
        return BroadcastTo((size, *self.shape), (0, *(p + 1 for p in place)))(x)


class Reshape(Op, inputs=("x",), linear_in=("x",), graphm="reshape"):
    """The same elements in row-major order under another shape; one -1 is inferred."""

    view: ClassVar[bool] = True

    shape: Ints

    def check(self) -> None:
        if any(s < -1 for s in self.shape):
            raise self.invalid("shape", "sizes are at least 0, or -1 to infer one")
        if self.shape.count(-1) > 1:
            raise self.invalid("shape", "only one size may be -1")

    def target(self, x: Type) -> tuple[int, ...]:
        """The shape with -1 replaced."""
        known = int(np.prod([s for s in self.shape if s != -1], dtype=object))
        if -1 in self.shape and known > 0 and x.size % known == 0:
            return tuple(x.size // known if s == -1 else s for s in self.shape)
        if -1 not in self.shape and known == x.size:
            return self.shape
        raise self.mismatch("x", self.shape, x, f"x has {x.size} elements")

    def typing(self, x: Type) -> Type:
        return x.with_shape(self.target(x))

    def numpy(self, x: Array) -> Array:
        return x.reshape(self.target(Type(x.shape, x.dtype.name)))

    def transpose_x(self, ct: Value, x: Type) -> Value:
        return Reshape(x.shape)(ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        inner = self.target(x.type.with_shape(x.shape[1:]))
        return Reshape((size, *inner))(x)


class Transpose(Op, inputs=("x",), linear_in=("x",)):
    """Axes reordered: axis i of the result is axis ``perm[i]`` of ``x``."""

    view: ClassVar[bool] = True

    perm: Ints

    def check(self) -> None:
        if sorted(self.order()) != list(range(len(self.perm))):
            raise self.invalid("perm", "each axis must be named once")

    def order(self) -> tuple[int, ...]:
        """`perm` counted from the front."""
        return tuple(p + len(self.perm) if p < 0 else p for p in self.perm)

    def typing(self, x: Type) -> Type:
        if len(self.perm) != x.rank:
            raise self.invalid("perm", f"{x.rank} entries are needed, one per axis of x")
        return x.with_shape(x.shape[p] for p in self.order())

    def numpy(self, x: Array) -> Array:
        return x.transpose(self.order())

    def transpose_x(self, ct: Value, x: Type) -> Value:
        order = self.order()
        return Transpose(tuple(order.index(a) for a in range(len(order))))(ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        return Transpose((0, *(p + 1 for p in self.order())))(x)


def move_axis(x: Value, source: int, target: int) -> Value:
    """`x` with axis `source` moved to `target`, the others in their order; both from the front."""
    order = [a for a in range(x.rank) if a != source]
    order.insert(target, source)
    return x if order == list(range(x.rank)) else Transpose(tuple(order))(x)


class Slice(Op, inputs=("x",), linear_in=("x",)):
    """Per axis, the elements from ``starts`` up to (not with) ``limits``, ``strides`` apart.

    As NumPy's ``x[start:limit:stride]`` without negative numbers; a start or limit past the end is
    an error, a start at or past the limit selects nothing. A single stride stands for all axes.
    """

    view: ClassVar[bool] = True

    starts: Naturals
    limits: Naturals
    strides: PositiveOrPositives = 1

    def steps(self, rank: int) -> tuple[int, ...]:
        """The stride of each axis."""
        return checks.per_axis(self, "strides", self.strides, rank)

    def typing(self, x: Type) -> Type:
        starts = checks.per_axis(self, "starts", self.starts, x.rank)
        limits = checks.per_axis(self, "limits", self.limits, x.rank)
        steps = self.steps(x.rank)
        for attribute, places in (("starts", starts), ("limits", limits)):
            for place, size in zip(places, x.shape, strict=True):
                checks.index(self, place, size, attribute=attribute, length=size)
        return x.with_shape(
            len(range(*window)) for window in zip(starts, limits, steps, strict=True)
        )

    def numpy(self, x: Array) -> Array:
        windows = zip(self.starts, self.limits, self.steps(x.ndim), strict=True)
        place: tuple[Any, ...] = (*(slice(*window) for window in windows), ...)
        view: Array = x[place]
        return view

    def transpose_x(self, ct: Value, x: Type) -> Value:
        steps = self.steps(x.rank)
        # The extent that the dilated cotangent covers, from its first element to its last.
        spans = [(n - 1) * t + 1 if n else 0 for n, t in zip(ct.shape, steps, strict=True)]
        high = (
            size - start - span
            for size, start, span in zip(x.shape, self.starts, spans, strict=True)
        )
        return Pad(self.starts, tuple(high), tuple(t - 1 for t in steps))(ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        steps = (1, *self.steps(x.rank - 1))
        return Slice((0, *self.starts), (size, *self.limits), steps)(x)


def slice_axis(x: Value, axis: int, start: int, limit: int) -> Value:
    """Elements `start` to `limit` along one axis, the other axes whole."""
    starts = tuple(start if a == axis else 0 for a in range(x.rank))
    limits = tuple(limit if a == axis else s for a, s in enumerate(x.shape))
    return Slice(starts, limits)(x)


class Pad(Op, inputs=("x",), linear_in=("x",), jointly=True):
    """``x`` spread apart and surrounded by ``value``.

    Per axis: ``interior`` elements between neighbours, then ``low`` in front and ``high`` behind;
    negative ``low`` or ``high`` crops the spread-out axis. A single number stands for all axes.
    Affine in ``x``: the derivative pads with 0.
    """

    low: IntOrInts
    high: IntOrInts
    interior: NaturalOrNaturals = 0
    value: Real = 0

    def margins(self, rank: int) -> list[tuple[int, int, int]]:
        """(low, high, interior) for each axis."""
        low = checks.per_axis(self, "low", self.low, rank)
        high = checks.per_axis(self, "high", self.high, rank)
        interior = checks.per_axis(self, "interior", self.interior, rank)
        return list(zip(low, high, interior, strict=True))

    def typing(self, x: Type) -> Type:
        pairs = list(zip(x.shape, self.margins(x.rank), strict=True))
        checks.scalar(self, "value", x.dtype)
        if x.dtype == "bool" and self.value not in (0, 1):
            raise self.invalid("value", "the operand is bool, so 0 or 1 is needed")
        shape = [_spread_size(s, interior) + low + high for s, (low, high, interior) in pairs]
        for axis, size in enumerate(shape):
            if size < 0:
                expected = [max(s, -low - high) for s, (low, high, _) in pairs]
                reason = f"low and high crop more than axis {axis} holds"
                raise self.mismatch("x", expected, x, reason)
        return x.with_shape(shape)

    def numpy(self, x: Array) -> Array:
        margins = self.margins(x.ndim)
        shape = [
            _spread_size(size, interior) + low + high
            for size, (low, high, interior) in zip(x.shape, margins, strict=True)
        ]
        result = np.full(shape, self.value, dtype=x.dtype)
        sources: list[Any] = []
        targets: list[Any] = []
        for size, end, (low, _, interior) in zip(x.shape, shape, margins, strict=True):
            step = interior + 1
            first = max(0, -(low // step))  # the least i with low + i * step >= 0
            last = min(size, -((low - end) // step))  # the least i with low + i * step >= end
            count = max(last - first, 0)
            begin = low + first * step
            sources.append(slice(first, first + count))
            span = (count - 1) * step + 1
            targets.append(slice(begin, begin + span, step) if count else slice(0))
        result[(*targets, ...)] = x[(*sources, ...)]
        return result

    def transpose_x(self, ct: Value, x: Type) -> Value:
        margins = self.margins(x.rank)
        spread = tuple(
            _spread_size(size, interior)
            for size, (_, _, interior) in zip(x.shape, margins, strict=True)
        )
        low, high, interior = (tuple(m[i] for m in margins) for i in range(3))
        if any(low) or any(high):
            # What was added is cropped; what was cropped had no effect, so zeros come back.
            ct = Pad(tuple(-n for n in low), tuple(-n for n in high))(ct)
        if any(interior):
            ct = Slice((0,) * x.rank, spread, tuple(n + 1 for n in interior))(ct)
        return ct

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        low, high, interior = zip((0, 0, 0), *self.margins(x.rank - 1), strict=True)
        return Pad(low, high, interior, self.value)(x)

    def tangent_op(self) -> Op:
        return self if self.value == 0 else replace(self, value=0)


def _spread_size(size: int, interior: int) -> int:
    """The length of an axis after `interior` elements were put between neighbours."""
    return size + max(size - 1, 0) * interior


class Flip(Op, inputs=("x",), linear_in=("x",)):
    """Elements in reverse order along ``axes`` (an int or a list; absent: all axes)."""

    view: ClassVar[bool] = True

    axes: IntOrInts | None = None

    def typing(self, x: Type) -> Type:
        checks.axes(self, "axes", self.axes, x.rank)
        return x

    def numpy(self, x: Array) -> Array:
        return np.flip(x, checks.axes(self, "axes", self.axes, x.ndim))

    def transpose_x(self, ct: Value, x: Type) -> Value:
        return self(ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        axes = checks.axes(self, "axes", self.axes, x.rank - 1)
        return Flip(tuple(a + 1 for a in axes))(x)


class Concat(Op, inputs=("*xs",), linear_in=("xs",), jointly=True):
    """One or more operands joined along ``axis``; their other sizes agree."""

    axis: Axis = 0

    def typing(self, *xs: Type) -> Type:
        axis = checks.axis(self, "axis", self.axis, xs[0].rank)
        named = checks.numbered("xs", xs)
        checks.same_dtype(self, **named)
        for name, t in named.items():
            expected = [*xs[0].shape]
            if t.rank == xs[0].rank:
                expected[axis] = t.shape[axis]
            if tuple(expected) != t.shape:
                reason = f"sizes agree on every axis but {axis}"
                raise self.mismatch(checks.operand_key(name), expected, t, reason)
        total = sum(t.shape[axis] for t in xs)
        return xs[0].with_shape(total if a == axis else s for a, s in enumerate(xs[0].shape))

    def numpy(self, *xs: Array) -> Array:
        return np.concatenate(xs, axis=self.axis)

    def transpose_xs(self, ct: Value, i: int, *xs: Type) -> Value:
        axis = checks.axis(self, "axis", self.axis, ct.rank)
        start = sum(t.shape[axis] for t in xs[:i])
        return slice_axis(ct, axis, start, start + xs[i].shape[axis])

    def vmap(self, size: int, mapped: tuple[bool, ...], *xs: Value) -> Value:
        from .logic import spread

        operands = spread(size, mapped, *xs)
        axis = checks.axis(self, "axis", self.axis, operands[0].rank - 1)
        return Concat(axis + 1)(*operands)
