"""Convolution (cross-correlation, channels first): `conv_general` and the layers written with it.

`conv_general` is closed under transposition. Read the product w * x -> y with three index spaces,
input place q, kernel offset k and output place p, that meet where
``q * dilate_x + low = p * strides + k * dilate_w``. Each operand's transpose is the same equation
with the roles of the spaces swapped, so strides and dilations change places and nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..ir import Type, Value
from . import checks
from .attributes import IntOrInts, NaturalOrNaturals, Positive, PositiveOrPositives
from .base import Array, Composite, Op
from .conv_geometry import Geometry, extent
from .conv_numpy import convolve
from .shape import BroadcastTo, Flip, Reshape, Transpose
from .sources import zeros


class ConvGeneral(Op, inputs=("x", "w"), linear_in=("x", "w")):
    """Cross-correlation of x: [N, I, *spatial] with w: [O, I/groups, *kernel], without bias.

    ``x`` is spread apart by ``dilate_x``, then gets ``low`` zeros in front and ``high`` behind
    (negative: cropped); kernel cells lie ``dilate_w`` apart and windows ``strides`` apart. Channels
    and filters are split into ``groups`` that do not mix. A single number stands for all axes.
    """

    strides: PositiveOrPositives = 1
    low: IntOrInts = 0
    high: IntOrInts = 0
    dilate_x: PositiveOrPositives = 1
    dilate_w: PositiveOrPositives = 1
    groups: Positive = 1

    def geometry(self, x: Type, w: Type) -> Geometry:
        """All sizes, for operands of matching ranks."""
        return _geometry(self, x.shape, w.shape)

    def typing(self, x: Type, w: Type) -> Type:
        if x.rank == w.rank >= 3:
            self.geometry(x, w)  # refuses lists of a wrong length
        checks.floats(self, x=x, w=w)
        if x.rank < 3:
            raise self.mismatch("x", ["N", "I", "s0", "..."], x)
        count, channels, *size = x.shape
        kernel = [f"k{i}" for i in range(len(size))]
        if w.rank != x.rank:
            raise self.mismatch("w", ["O", _share(channels, self.groups), *kernel], w)
        if channels != w.shape[1] * self.groups:
            reason = f"groups is {self.groups}, and w has {w.shape[1]} channels in each"
            raise self.mismatch("x", ["N", w.shape[1] * self.groups, *size], x, reason)
        if w.shape[0] % self.groups:
            reason = f"the first size must be a multiple of groups, which is {self.groups}"
            raise self.mismatch("w", ["O", *w.shape[1:]], w, reason)
        check_kernel(self, w)
        out = self.geometry(x, w).out
        check_output(self, x, 2, out)
        return x.with_shape((count, w.shape[0], *out))

    def numpy(self, x: Array, w: Array) -> Array:
        return convolve(x, w, self.geometry(Type(x.shape), Type(w.shape)))

    def workspace(self, x: Type, w: Type) -> int:
        return self.geometry(x, w).workspace(x.nbytes // x.size if x.size else 0)

    def transpose_x(self, ct: Value, x: Type, w: Value) -> Value:
        g = self.geometry(x, w.type)
        if 0 in g.size:
            return zeros(ct, x)
        axes = range(len(g.size))
        reach = [extent(k, d) - 1 for k, d in zip(g.kernel, g.dilate_w, strict=True)]
        spans = [extent(n, d) for n, d in zip(g.size, g.dilate_x, strict=True)]
        moved = [extent(o, s) for o, s in zip(g.out, g.strides, strict=True)]
        pull = ConvGeneral(
            strides=g.dilate_x,
            low=tuple(reach[a] - g.low[a] for a in axes),
            high=tuple(spans[a] - moved[a] + g.low[a] for a in axes),
            dilate_x=g.strides,
            dilate_w=g.dilate_w,
            groups=self.groups,
        )
        return pull(ct, _turned(w, self.groups))

    def transpose_w(self, ct: Value, x: Value, w: Type) -> Value:
        g = self.geometry(x.type, w)
        axes = range(len(g.size))
        reach = [extent(k, d) - 1 for k, d in zip(g.kernel, g.dilate_w, strict=True)]
        spans = [extent(n, d) for n, d in zip(g.size, g.dilate_x, strict=True)]
        moved = [extent(o, s) for o, s in zip(g.out, g.strides, strict=True)]
        # Samples become the channels that are summed; each group keeps to itself.
        split = Reshape((g.samples, g.groups, g.channels, *g.size))(x)
        turned = _permuted(split, (2, 1, 0), len(g.size))
        signal = Reshape((g.channels, g.groups * g.samples, *g.size))(turned)
        pull = ConvGeneral(
            strides=g.dilate_w,
            low=g.low,
            high=tuple(reach[a] + moved[a] - spans[a] - g.low[a] for a in axes),
            dilate_x=g.dilate_x,
            dilate_w=g.strides,
            groups=self.groups,
        )
        part = pull(signal, _permuted(ct, (1, 0), len(g.size)))
        return _permuted(part, (1, 0), len(g.size))

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value, w: Value) -> Value:
        batched_x, batched_w = mapped
        if batched_x and not batched_w:
            count = x.shape[1]
            y = self(Reshape((size * count, *x.shape[2:]))(x), w)
            return Reshape((size, count, *y.shape[1:]))(y)
        rank = w.rank - 3
        filters, channels, *kernel = w.shape[1:]
        groups = self.groups
        if batched_x and size == 0:  # there is no such thing as no groups
            one = self.typing(x.type.with_shape(x.shape[1:]), w.type.with_shape(w.shape[1:]))
            return zeros(x, one.with_shape((0, *one.shape)))
        if batched_x:
            # Samples act as further groups.
            count, total, *spatial = x.shape[1:]
            folded = Reshape((count, size * total, *spatial))(_permuted(x, (1, 0, 2), rank))
            weights = Reshape((size * filters, channels, *kernel))(w)
            y = self._with_groups(size * groups)(folded, weights)
            y = Reshape((count, size, filters, *y.shape[2:]))(y)
            return _permuted(y, (1, 0, 2), rank)
        # More filters on the same signal; within each group, so that groups stay contiguous.
        each = filters // groups
        weights = Reshape((size, groups, each, channels, *kernel))(w)
        weights = _permuted(weights, (1, 0, 2, 3), rank)
        y = self(x, Reshape((groups * size * each, channels, *kernel))(weights))
        y = Reshape((x.shape[0], groups, size, each, *y.shape[2:]))(y)
        y = _permuted(y, (2, 0, 1, 3), rank)
        return Reshape((size, x.shape[0], filters, *y.shape[4:]))(y)

    def _with_groups(self, groups: int) -> ConvGeneral:
        fixed = (self.strides, self.low, self.high, self.dilate_x, self.dilate_w)
        return ConvGeneral(*fixed, groups)


@lru_cache(maxsize=4096)
def _geometry(op: ConvGeneral, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
    names = ("strides", "low", "high", "dilate_x", "dilate_w")
    return Geometry(
        x[0],
        op.groups,
        w[1],
        w[0] // op.groups,
        x[2:],
        w[2:],
        *(checks.per_axis(op, name, getattr(op, name), len(w) - 2) for name in names),
    )


def _share(channels: int, groups: int) -> int | str:
    return channels // groups if channels % groups == 0 else "I"


def _permuted(x: Value, lead: Sequence[int], rank: int) -> Value:
    """The leading axes reordered, the `rank` spatial ones left alone."""
    count = len(lead)
    return Transpose((*lead, *range(count, count + rank)))(x)


def _turned(w: Value, groups: int) -> Value:
    """The kernel of the transposed convolution: mirrored, with filters and channels exchanged."""
    filters, channels, *kernel = w.shape
    spatial = tuple(range(2, w.rank))
    flipped = w if math.prod(kernel) == 1 else Flip(spatial)(w)
    if groups == 1:
        return _permuted(flipped, (1, 0), len(kernel))
    each = filters // groups
    split = Reshape((groups, each, channels, *kernel))(flipped)
    return Reshape((groups * channels, each, *kernel))(_permuted(split, (0, 2, 1), len(kernel)))


def check_kernel(op: Op, w: Type) -> None:
    """A kernel has at least one cell along each spatial axis."""
    if 0 in w.shape[2:]:
        expected = [*w.shape[:2], *(k or f"k{i}" for i, k in enumerate(w.shape[2:]))]
        raise op.mismatch("w", expected, w, "kernel sizes are at least 1")


def check_output(op: Op, x: Type, lead: int, out: Sequence[int]) -> None:
    """Output sizes are at least 1; `lead` axes of x come before the spatial ones."""
    for i, size in enumerate(out):
        if size < 1:
            expected: list[Any] = list(x.shape)
            expected[lead + i] = f"s{i}"
            raise op.mismatch("x", expected, x, f"the output size along axis {lead + i} is {size}")


# -- layers ----------------------------------------------------------------------------------------


class Layer(Composite):
    """Base of the convolution layers: one sample, a bias, the same padding on both sides."""

    stride: PositiveOrPositives = 1
    padding: NaturalOrNaturals = 0

    def spatial(self, w: Type) -> int:
        """The number of spatial axes, from the kernel's rank."""
        return w.rank - 2

    def per_axis(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Strides and paddings."""
        strides = checks.per_axis(self, "stride", self.stride, rank)
        return strides, checks.per_axis(self, "padding", self.padding, rank)

    def common(self, w: Type, b: Type, x: Type, pattern: tuple[str, str], filters: int) -> None:
        """Checks of everything but the output sizes; `filters` is the axis of w that b has."""
        rank = self.spatial(w)
        if rank >= 1:
            self.per_axis(rank)
        checks.floats(self, w=w, b=b, x=x)
        if rank < 1 or w.rank != rank + 2:
            kernel = ["k0", "..."] if rank < 1 else [f"k{i}" for i in range(rank)]
            raise self.mismatch("w", [*pattern, *kernel], w)
        check_kernel(self, w)
        if b.shape != (w.shape[filters],):
            raise self.mismatch("b", (w.shape[filters],), b)
        channels = w.shape[1 - filters]
        if x.rank != rank + 1 or x.shape[0] != channels:
            raise self.mismatch("x", [channels, *(f"s{i}" for i in range(rank))], x)

    def finish(self, y: Value, b: Value) -> Value:
        """Drop the sample axis and add the bias."""
        y = Reshape(y.shape[1:])(y)
        return y + BroadcastTo(y.shape, (0,))(b)


class Conv(Layer, inputs=("w", "b", "x"), graphm="conv"):
    """Convolution (cross-correlation) of one sample x: [I, *spatial] with w: [O, I, *kernel].

    The result is [O, *out] with out = floor((in + 2 padding - kernel) / stride) + 1 along each
    axis; ``b``: [O] is added to every place. One, two, three or more spatial axes; ``stride`` and
    ``padding`` are one number or one per axis.
    """

    def typing(self, w: Type, b: Type, x: Type) -> Type:
        self.common(w, b, x, ("O", "I"), 0)
        strides, padding = self.per_axis(self.spatial(w))
        sizes = zip(x.shape[1:], w.shape[2:], strides, padding, strict=True)
        out = [(n + 2 * p - k) // s + 1 for n, k, s, p in sizes]
        check_output(self, x, 1, out)
        return x.with_shape((w.shape[0], *out))

    def expand(self, w: Value, b: Value, x: Value) -> Value:
        strides, padding = self.per_axis(self.spatial(w.type))
        op = ConvGeneral(strides=strides, low=padding, high=padding)
        return self.finish(op(Reshape((1, *x.shape))(x), w), b)


class ConvTranspose(Layer, inputs=("w", "b", "x"), graphm="convTranspose"):
    """Transposed convolution of one sample x: [I, *spatial] with w: [I, O, *kernel].

    The transpose of `conv` with the same attributes, plus ``b``: [O]. The result is [O, *out] with
    out = (in - 1) stride - 2 padding + kernel along each axis.
    """

    def typing(self, w: Type, b: Type, x: Type) -> Type:
        self.common(w, b, x, ("I", "O"), 1)
        strides, padding = self.per_axis(self.spatial(w))
        sizes = zip(x.shape[1:], w.shape[2:], strides, padding, strict=True)
        out = [(n - 1) * s - 2 * p + k for n, k, s, p in sizes]
        check_output(self, x, 1, out)
        return x.with_shape((w.shape[1], *out))

    def expand(self, w: Value, b: Value, x: Value) -> Value:
        if 0 in x.shape[1:]:  # nothing to convolve, but a wide kernel leaves places for the bias
            return BroadcastTo(self.typing(w.type, b.type, x.type).shape, (0,))(b)
        strides, padding = self.per_axis(self.spatial(w.type))
        margin = tuple(k - 1 - p for k, p in zip(w.shape[2:], padding, strict=True))
        op = ConvGeneral(low=margin, high=margin, dilate_x=strides)
        return self.finish(op(Reshape((1, *x.shape))(x), _turned(w, 1)), b)


class Conv2d(Conv, inputs=("w", "b", "x"), graphm="conv2d"):
    """`conv` for two spatial axes; ``stride`` and ``padding`` are one number or [h, w]."""

    def spatial(self, w: Type) -> int:
        return 2

    def expand(self, w: Value, b: Value, x: Value) -> Value:
        return Conv(self.stride, self.padding)(w, b, x)


class ConvTranspose2d(ConvTranspose, inputs=("w", "b", "x"), graphm="convTranspose2d"):
    """`conv_transpose` for two spatial axes; ``stride`` and ``padding``: one number or [h, w]."""

    def spatial(self, w: Type) -> int:
        return 2

    def expand(self, w: Value, b: Value, x: Value) -> Value:
        return ConvTranspose(self.stride, self.padding)(w, b, x)
