"""Ops composed of the structural primitives: named transposes, views, concatenations, ranges."""

from __future__ import annotations

from ..ir import Type, Value
from . import checks
from .attributes import Axis, IntOrInts, Natural
from .base import Composite, Op
from .shape import Concat, Reshape, Transpose, slice_axis


class Flatten(Composite, inputs=("x",), graphm="flatten"):
    """All elements in row-major order along one axis; a scalar gives [1]."""

    def typing(self, x: Type) -> Type:
        return x.with_shape((x.size,))

    def expand(self, x: Value) -> Value:
        return Reshape((x.type.size,))(x)


class Permutation(Composite):
    """Base of transposes with a fixed order of axes; `letters` name them for error messages."""

    def order(self) -> tuple[int, ...]:
        """Axis i of the result is axis ``order()[i]`` of the operand."""
        raise NotImplementedError

    def typing(self, x: Type) -> Type:
        order = self.order()
        pattern = ["m", "n"] if len(order) == 2 else ["a", "b", "c"]
        checks.rank(self, "x", x, len(order), pattern)
        return x.with_shape(x.shape[a] for a in order)

    def expand(self, x: Value) -> Value:
        return Transpose(self.order())(x)


class Transpose2d(Permutation, inputs=("x",), graphm="transpose2d"):
    """[m, n] to [n, m]."""

    def order(self) -> tuple[int, ...]:
        return (1, 0)


class Transpose3dFirstToLast(Permutation, inputs=("x",), graphm="transpose3d_first_to_last"):
    """[a, b, c] to [b, c, a]."""

    def order(self) -> tuple[int, ...]:
        return (1, 2, 0)


class Transpose3dLastToFirst(Permutation, inputs=("x",), graphm="transpose3d_last_to_first"):
    """[a, b, c] to [c, a, b]."""

    def order(self) -> tuple[int, ...]:
        return (2, 0, 1)


class Transpose3dLastTwo(Permutation, inputs=("x",), graphm="transpose3d_last_two"):
    """[a, b, c] to [a, c, b]."""

    def order(self) -> tuple[int, ...]:
        return (0, 2, 1)


class SwapAdjacentAtDepth(Composite, inputs=("x",), graphm="swapAdjacentAtDepth"):
    """Axes ``depth`` and ``depth + 1`` swapped."""

    depth: Natural

    def order(self, rank: int) -> tuple[int, ...]:
        """The axes of the operand in the order of the result's."""
        d = self.depth
        return (*range(d), d + 1, d, *range(d + 2, rank))

    def typing(self, x: Type) -> Type:
        if self.depth + 1 >= x.rank:
            raise self.invalid("depth", f"axis {self.depth + 1} is needed, x has {x.rank} axes")
        return x.with_shape(x.shape[a] for a in self.order(x.rank))

    def expand(self, x: Value) -> Value:
        return Transpose(self.order(x.rank))(x)


class Squeeze(Composite, inputs=("x",)):
    """Axes of size 1 removed: ``axis`` (an int or a list; absent: every axis of size 1)."""

    axis: IntOrInts | None = None

    def typing(self, x: Type) -> Type:
        if self.axis is None:
            return x.with_shape(s for s in x.shape if s != 1)
        axes = checks.axes(self, "axis", self.axis, x.rank)
        if any(x.shape[a] != 1 for a in axes):
            expected = [1 if a in axes else s for a, s in enumerate(x.shape)]
            raise self.mismatch("x", expected, x, "only axes of size 1 can be squeezed")
        return x.with_shape(s for a, s in enumerate(x.shape) if a not in axes)

    def expand(self, x: Value) -> Value:
        return Reshape(self.typing(x.type).shape)(x)


class ExpandDims(Composite, inputs=("x",)):
    """New axes of size 1 at ``axis`` (an int or a list), counted in the result as NumPy does."""

    axis: IntOrInts

    def typing(self, x: Type) -> Type:
        rank = x.rank + (1 if isinstance(self.axis, int) else len(self.axis))
        axes = checks.axes(self, "axis", self.axis, rank)
        old = iter(x.shape)
        return x.with_shape(1 if a in axes else next(old) for a in range(rank))

    def expand(self, x: Value) -> Value:
        return Reshape(self.typing(x.type).shape)(x)


class SliceRange0(Composite, inputs=("x",), graphm="sliceRange0"):
    """``len`` entries along axis 0 from ``start`` on; none is legal, past the end is an error."""

    start: Natural
    len: Natural

    def typing(self, x: Type) -> Type:
        _leading_axis(self, "x", x)
        end = self.start + self.len
        checks.index(self, end, x.shape[0], attribute="len", length=x.shape[0])
        return x.with_shape((self.len, *x.shape[1:]))

    def expand(self, x: Value) -> Value:
        return slice_axis(x, 0, self.start, self.start + self.len)


class Stack(Composite, inputs=("*xs",)):
    """One or more operands of one shape joined along a new ``axis``, counted in the result."""

    axis: Axis = 0

    def typing(self, *xs: Type) -> Type:
        first = xs[0]
        axis = checks.axis(self, "axis", self.axis, first.rank + 1)
        named = checks.numbered("xs", xs)
        checks.same_dtype(self, **named)
        checks.same_shape(self, **named)
        return first.with_shape((*first.shape[:axis], len(xs), *first.shape[axis:]))

    def expand(self, *xs: Value) -> Value:
        axis = checks.axis(self, "axis", self.axis, xs[0].rank + 1)
        return Concat(axis)(*(ExpandDims(axis)(x) for x in xs))


class ConcatVectors(Composite, inputs=("a", "b"), graphm="concatVectors"):
    """[n] and [m] to [n + m]."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.same_dtype(self, a=a, b=b)
        checks.rank(self, "a", a, 1, ["n"])
        checks.rank(self, "b", b, 1, ["m"])
        return a.with_shape((a.size + b.size,))

    def expand(self, a: Value, b: Value) -> Value:
        return Concat(0)(a, b)


class ConcatDim0(Composite, inputs=("a", "b"), graphm="concatDim0"):
    """[n, ...] and [m, ...] to [n + m, ...]; the other sizes agree."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.same_dtype(self, a=a, b=b)
        _leading_axis(self, "a", a)
        if b.rank != a.rank or b.shape[1:] != a.shape[1:]:
            raise self.mismatch("b", ["m", *a.shape[1:]], b)
        return a.with_shape((a.shape[0] + b.shape[0], *a.shape[1:]))

    def expand(self, a: Value, b: Value) -> Value:
        return Concat(0)(a, b)


def _leading_axis(op: Op, operand: str, t: Type) -> None:
    if t.rank == 0:
        raise op.mismatch(operand, ["n", "..."], t, "at least one axis is needed")
