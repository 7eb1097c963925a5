"""Reductions: sums, means, extremes and their positions, along some axes or all."""

from __future__ import annotations

import math

import numpy as np

from ..ir import Type, Value
from . import checks
from .attributes import Axis, Bool, IntOrInts
from .base import Array, Composite, Op
from .shape import BroadcastTo, Reshape
from .sources import constant


class Reduction(Op):
    """Base of reductions over `axis`: an int, a list, or None for all axes."""

    axis: IntOrInts | None = None
    keepdims: Bool = False

    def axes(self, rank: int) -> tuple[int, ...]:
        """The axes reduced over, counted from the front."""
        return checks.axes(self, "axis", self.axis, rank)

    def count(self, x: Type) -> int:
        """How many elements of x each element of the result stands for."""
        return math.prod(x.shape[a] for a in self.axes(x.rank))

    def reduced(self, x: Type) -> Type:
        """The result's type for a result of the operand's dtype."""
        axes = self.axes(x.rank)
        if self.keepdims:
            return x.with_shape(1 if a in axes else s for a, s in enumerate(x.shape))
        return x.with_shape(s for a, s in enumerate(x.shape) if a not in axes)

    def restore(self, y: Value, x: Type) -> Value:
        """Broadcast something of the result's shape back over the reduced axes."""
        axes = self.axes(x.rank)
        if self.keepdims:
            return BroadcastTo(x.shape)(y)
        return BroadcastTo(x.shape, tuple(a for a in range(x.rank) if a not in axes))(y)

    def refuse_empty(self, x: Type) -> None:
        """A reduction without a neutral element needs something to reduce."""
        if self.count(x) == 0:
            expected = [max(s, 1) if a in self.axes(x.rank) else s for a, s in enumerate(x.shape)]
            raise self.mismatch("x", expected, x, "there is nothing to reduce")


class PrimitiveReduction(Reduction):
    """Base of the reductions that are primitives."""

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        axes = tuple(a + 1 for a in self.axes(x.rank - 1))
        return type(self)(axes, self.keepdims)(x)


FEW_PLANES, VERY_FEW_PLANES, WIDE_PLANE = 64, 4, 1024
LONG_ROW, LONG_COLUMN = 64, 4096


def np_planes(ufunc: np.ufunc, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array | None:
    """A reduction of few terms, plane by plane; None: leave it to NumPy.

    NumPy's own loop over a scattered view, such as the windows of a pool, is twenty times slower;
    over rows of two or three numbers still five times.
    """
    count = math.prod(x.shape[a] for a in axes)
    most = VERY_FEW_PLANES if x.flags.c_contiguous else FEW_PLANES
    if not 2 <= count <= most or x.size < count * WIDE_PLANE:
        return None
    total: Array | None = None
    for place in np.ndindex(*(x.shape[a] for a in axes)):
        index: list[int | slice] = [slice(None)] * x.ndim
        for axis, i in zip(axes, place, strict=True):
            index[axis] = i
        plane = x[tuple(index)]
        total = plane.copy() if total is None else ufunc(total, plane, out=total)
    assert total is not None
    return np.expand_dims(total, axes) if keepdims else total


def np_sum(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Sum with a small error at 10^7 float32 elements.

    NumPy sums pairwise only along the axis that is innermost in memory; long sums along other axes
    run in float64.
    """
    planes = np_planes(np.add, x, axes, keepdims)
    if planes is not None:
        return planes
    count = math.prod(x.shape[a] for a in axes)
    if x.flags.c_contiguous and axes == tuple(range(len(axes))) and x.ndim > len(axes):
        short = _short_rows(x, count)
        if short is not None:
            result = short.astype(x.dtype, copy=False).reshape(x.shape[len(axes) :])
            return np.expand_dims(result, axes) if keepdims else result
    innermost = bool(axes) and axes == tuple(range(x.ndim - len(axes), x.ndim))
    if x.dtype == np.float32 and count > 256 and not (innermost and x.flags.c_contiguous):
        wide = x.sum(axis=axes, dtype=np.float64, keepdims=keepdims)
        return np.asarray(wide, dtype=np.float32)
    return np.asarray(x.sum(axis=axes, keepdims=keepdims), dtype=x.dtype)


def _short_rows(x: Array, count: int) -> Array | None:
    """The sum of many short rows, over the leading axes; None: leave it to NumPy.

    NumPy adds row by row, which is slow where a row is short. So several are taken as one.
    """
    width = x.size // max(count, 1)
    if not 0 < width < LONG_ROW or count < LONG_COLUMN:
        return None
    wide = np.float64 if x.dtype == np.float32 else x.dtype
    rows = x.reshape(count, width)
    group = 8 * LONG_ROW // width
    cut = count - count % group
    grouped = rows[:cut].reshape(cut // group, group * width).sum(axis=0, dtype=wide)
    result: Array = grouped.reshape(group, width).sum(axis=0)
    result += rows[cut:].sum(axis=0, dtype=wide)
    return result


class ReduceSum(PrimitiveReduction, inputs=("x",), linear_in=("x",), graphm="reduceSum"):
    """Sum along ``axis`` (an int or a list; absent: all axes); an empty sum is 0."""

    def typing(self, x: Type) -> Type:
        result = self.reduced(x)
        checks.numeric(self, x=x)
        return result

    def numpy(self, x: Array) -> Array:
        return np_sum(x, self.axes(x.ndim), self.keepdims)

    def transpose_x(self, ct: Value, x: Type) -> Value:
        return self.restore(ct, x)


class Sum(Composite, inputs=("x",), graphm="sum"):
    """The sum of all entries; ``reduce_sum`` sums along axes."""

    def typing(self, x: Type) -> Type:
        checks.numeric(self, x=x)
        return x.with_shape(())

    def expand(self, x: Value) -> Value:
        return ReduceSum()(x)


class ReduceMean(Reduction, Composite, inputs=("x",), graphm="reduceMean"):
    """Mean along ``axis`` (an int or a list; absent: all axes); over nothing it is an error."""

    def typing(self, x: Type) -> Type:
        result = self.reduced(x)
        checks.floats(self, x=x)
        self.refuse_empty(x)
        return result

    def expand(self, x: Value) -> Value:
        # A division, not a product with 1/count, so that the mean of equal numbers is that number.
        total = ReduceSum(self.axis, self.keepdims)(x)
        return total / float(self.count(x.type)) if self.axes(x.rank) else total


class Extreme(PrimitiveReduction):
    """Base of `reduce_max` and `reduce_min`: whoever ties shares the derivative equally."""

    def typing(self, x: Type) -> Type:
        result = self.reduced(x)
        checks.numeric(self, x=x)
        self.refuse_empty(x)
        return result

    def jvp_x(self, dx: Value, y: Value, x: Value) -> Value:
        from .elementwise import Cast, detach
        from .logic import equal, not_equal, select

        y = detach(y)
        best = self.restore(y, x.type)
        winners = equal(x, best)
        total = ReduceSum(self.axis, self.keepdims)
        # Where the extreme is NaN nobody wins: the derivative is NaN for all, to both sides alike.
        count = select(not_equal(y, y), y, total(Cast(x.dtype)(winners)))
        return total(select(winners | not_equal(best, best), dx, 0.0)) / count


class ReduceMax(Extreme, inputs=("x",)):
    """Maximum along ``axis`` (an int or a list; absent: all axes); NaN wins.

    Elements that tie for it share the derivative equally. Over nothing it is an error.
    """

    def numpy(self, x: Array) -> Array:
        axes = self.axes(x.ndim)
        planes = np_planes(np.maximum, x, axes, self.keepdims)
        if planes is not None:
            return planes
        return np.asarray(x.max(axis=axes, keepdims=self.keepdims))


class ReduceMin(Extreme, inputs=("x",)):
    """Minimum along ``axis`` (an int or a list; absent: all axes); NaN wins.

    Elements that tie for it share the derivative equally. Over nothing it is an error.
    """

    def numpy(self, x: Array) -> Array:
        axes = self.axes(x.ndim)
        planes = np_planes(np.minimum, x, axes, self.keepdims)
        if planes is not None:
            return planes
        return np.asarray(x.min(axis=axes, keepdims=self.keepdims))


class Logsumexp(Reduction, Composite, inputs=("x",)):
    """log(sum(exp(x))) along ``axis`` (an int or a list; absent: all axes), without overflow.

    Over nothing it is -inf.
    """

    def typing(self, x: Type) -> Type:
        result = self.reduced(x)
        checks.floats(self, x=x)
        return result

    def expand(self, x: Value) -> Value:
        from .elementwise import detach, exp, is_finite, log
        from .logic import select

        if self.count(x.type) == 0:
            return constant(self.reduced(x.type), -math.inf, x.builder)
        top = detach(ReduceMax(self.axis, keepdims=True)(x))
        # Shifting by an infinite maximum would give inf - inf; such slices are summed as they are.
        top = select(is_finite(top), top, 0.0)
        y = log(ReduceSum(self.axis, keepdims=True)(exp(x - top))) + top
        return y if self.keepdims else Reshape(self.reduced(x.type).shape)(y)


class MseLoss(Composite, inputs=("yhat", "target"), graphm="mseLoss"):
    """Mean over all entries of (yhat - target)^2; differentiable in both."""

    def typing(self, yhat: Type, target: Type) -> Type:
        checks.floats(self, yhat=yhat, target=target)
        checks.same_shape(self, yhat=yhat, target=target)
        if yhat.size == 0:
            expected = [max(s, 1) for s in yhat.shape]
            raise self.mismatch("yhat", expected, yhat, "there is nothing to average")
        return yhat.with_shape(())

    def expand(self, yhat: Value, target: Value) -> Value:
        from .elementwise import square

        return ReduceMean()(square(yhat - target))


class Cumsum(Op, inputs=("x",), linear_in=("x",)):
    """Running sum along ``axis``; with ``reverse``, from the end to the front."""

    axis: Axis
    reverse: Bool = False

    def typing(self, x: Type) -> Type:
        checks.axis(self, "axis", self.axis, x.rank)
        checks.numeric(self, x=x)
        return x

    def numpy(self, x: Array) -> Array:
        source = np.flip(x, self.axis) if self.reverse else x
        # float32 accumulates in float64: a running sum's error grows with its length.
        wide = np.float64 if x.dtype == np.float32 else x.dtype
        sums = np.cumsum(source, axis=self.axis, dtype=wide).astype(x.dtype, copy=False)
        return np.flip(sums, self.axis) if self.reverse else sums

    def transpose_x(self, ct: Value, x: Type) -> Value:
        return Cumsum(self.axis, not self.reverse)(ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        return Cumsum(self.axis % (x.rank - 1) + 1, self.reverse)(x)

    def workspace(self, x: Type) -> int:
        # NumPy casts the operand, then adds up the copy.
        return 12 * x.size if x.dtype == "float32" else 0


class Position(Op):
    """Base of `argmax` and `argmin`."""

    axis: Axis

    def typing(self, x: Type) -> Type:
        axis = checks.axis(self, "axis", self.axis, x.rank)
        checks.numeric(self, x=x)
        if x.shape[axis] == 0:
            expected = [1 if a == axis else s for a, s in enumerate(x.shape)]
            raise self.mismatch("x", expected, x, "there is nothing to choose from")
        return Type((*x.shape[:axis], *x.shape[axis + 1 :]), "int64")

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        return type(self)(self.axis % (x.rank - 1) + 1)(x)

    def workspace(self, x: Type) -> int:
        # NumPy moves the axis to the end first, in a copy.
        return x.nbytes if self.axis % x.rank != x.rank - 1 else 0


class Argmax(Position, inputs=("x",), nondiff=("x",)):
    """The int64 position of the maximum along ``axis``: the first of equals; the first NaN wins."""

    def numpy(self, x: Array) -> Array:
        return np.asarray(np.argmax(x, axis=self.axis), dtype=np.int64)


class Argmin(Position, inputs=("x",), nondiff=("x",)):
    """The int64 position of the minimum along ``axis``: the first of equals; the first NaN wins."""

    def numpy(self, x: Array) -> Array:
        return np.asarray(np.argmin(x, axis=self.axis), dtype=np.int64)
