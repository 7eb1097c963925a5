"""Reading and adding at positions: gathers and scatters.

Two primitives carry all of it: `take` and `scatter_add`, transposes of each other. Positions known
when the graph is built are checked then; positions known only in a run read zero, and add nothing,
where they are out of range (a negative one is out of range too).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from .. import errors
from ..ir import Type, Value
from . import checks
from .attributes import Axis, Index, IntArray, Natural
from .base import Array, Composite, Op
from .logic import spread
from .shape import Pad, Reshape, move_axis, slice_axis
from .sources import literal, zeros


class Indexed(Op):
    """Base of the ops that address positions along `axis`, per sample of `batch` leading axes."""

    axis: Axis
    batch: Natural = 0

    def place(self, x: Type, indices: Type) -> int:
        """The axis counted from the front, once axis, batch, dtypes and shapes were checked."""
        axis = checks.axis(self, "axis", self.axis, x.rank)
        if self.batch > axis:
            raise self.invalid("batch", f"at most the {axis} axes before axis {axis} are shared")
        if self.batch > indices.rank:
            raise self.invalid("batch", f"indices has only {indices.rank} axes")
        checks.dtypes(self, ("int64",), indices=indices)
        shared = x.shape[: self.batch]
        if indices.shape[: self.batch] != shared:
            expected = (*shared, *indices.shape[self.batch :])
            raise self.mismatch("indices", expected, indices, "batch axes agree with those of x")
        return axis

    def taken(self, x: Type, indices: Type, axis: int) -> Type:
        """What `take` gives, and what `scatter_add` adds."""
        return x.with_shape((*x.shape[:axis], *indices.shape[self.batch :], *x.shape[axis + 1 :]))

    def rows(self, x: tuple[int, ...], indices: Array) -> tuple[Array, Array | None]:
        """Row numbers into x seen as [rows, inner], one for each row that is read or added to.

        Args:
            x: The shape of x.
            indices: The positions.

        Returns:
            The numbers, flat, for [batch, outer, positions]; and which of them are in range, or
            None if all are. The number of one out of range is arbitrary, but exists.
        """
        axis = self.axis % len(x)
        n, samples = x[axis], math.prod(x[: self.batch])
        blocks = samples * math.prod(x[self.batch : axis])
        positions = indices.reshape(samples, 1, math.prod(indices.shape[self.batch :]))
        # Read as unsigned, a negative position is a huge one: one comparison serves both ends.
        valid = positions.view(np.uint64) < n
        every = bool(valid.all())
        rows = positions if every else np.where(valid, positions, 0)
        if blocks > 1:
            rows = np.arange(blocks).reshape(samples, blocks // samples, 1) * n + rows
        return rows.reshape(-1), None if every else np.broadcast_to(valid, rows.shape).reshape(-1)


class Take(Indexed, inputs=("x", "indices"), linear_in=("x",), nondiff=("indices",)):
    """Slices of ``x`` along ``axis`` at ``indices``; out of range (negative too) reads 0.

    The result has the shape of x with ``axis`` replaced by the axes of ``indices``. The first
    ``batch`` axes are shared by both, and each sample reads its own part of x.
    """

    def typing(self, x: Type, indices: Type) -> Type:
        axis = self.place(x, indices)
        return self.taken(x, indices, axis)

    def numpy(self, x: Array, indices: Array) -> Array:
        axis = self.axis % x.ndim
        inner = math.prod(x.shape[axis + 1 :])
        shape = (*x.shape[:axis], *indices.shape[self.batch :], *x.shape[axis + 1 :])
        if x.size == 0:
            return np.zeros(shape, x.dtype)
        rows, valid = self.rows(x.shape, indices)
        table = x.reshape(x.size // inner, inner)
        result = table.take(rows, axis=0)
        if valid is not None:
            result[~valid] = 0
        return result.reshape(shape)

    def transpose_x(self, ct: Value, x: Type, indices: Value) -> Value:
        return ScatterAdd(self.axis, self.batch)(zeros(ct, x), indices, ct)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value, indices: Value) -> Value:
        axis = self.axis % (x.rank - mapped[0])
        if mapped == (True, False) and self.batch == 0:
            return Take(axis + 1)(x, indices)
        if mapped == (False, True) and self.batch == 0:
            return move_axis(Take(axis)(x, indices), axis, 0)
        x, indices = spread(size, mapped, x, indices)
        return Take(axis + 1, self.batch + 1)(x, indices)

    def workspace(self, x: Type, indices: Type) -> int:
        axis = self.axis % x.rank
        return 17 * math.prod(x.shape[self.batch : axis]) * indices.size


class ScatterAdd(
    Indexed,
    inputs=("x", "indices", "updates"),
    linear_in=("x", "updates"),
    jointly=True,
    nondiff=("indices",),
):
    """A copy of ``x`` to which ``updates`` is added along ``axis`` at ``indices``.

    Duplicates accumulate; out of range (negative too) is dropped. ``updates`` has the shape that
    `take` gives for the same x, indices, ``axis`` and ``batch``. For bool, adding is "or".
    """

    def typing(self, x: Type, indices: Type, updates: Type) -> Type:
        axis = self.place(x, indices)
        checks.same_dtype(self, x=x, updates=updates)
        expected = self.taken(x, indices, axis)
        if updates.shape != expected.shape:
            raise self.mismatch("updates", expected.shape, updates)
        return x

    def numpy(self, x: Array, indices: Array, updates: Array) -> Array:
        if updates.size == 0:
            return x.copy()
        inner = math.prod(x.shape[self.axis % x.ndim + 1 :])
        rows, valid = self.rows(x.shape, indices)
        table = x.reshape(x.size // inner, inner)
        values = updates.reshape(-1, inner)
        if valid is not None:
            rows, values = rows[valid], values[valid]
        if x.dtype.kind != "f":
            result = table.copy()
            cells = rows[:, None] * inner + np.arange(inner)
            np.add.at(result.reshape(-1), cells.reshape(-1), values.reshape(-1))
            return result.reshape(x.shape)
        if len(table) > 4 * len(rows):  # few rows of a large table: sum these alone
            touched, rows = np.unique(rows, return_inverse=True)
            result = table.copy()
            result[touched] += _row_sums(rows, values, len(touched))
        else:
            result = (table + _row_sums(rows, values, len(table))).astype(x.dtype, copy=False)
        return result.reshape(x.shape)

    def transpose_x(self, ct: Value, x: Type, indices: Value, updates: Type) -> Value:
        return ct

    def transpose_updates(self, ct: Value, x: Type, indices: Value, updates: Type) -> Value:
        return Take(self.axis, self.batch)(ct, indices)

    def vmap(
        self, size: int, mapped: tuple[bool, ...], x: Value, indices: Value, updates: Value
    ) -> Value:
        axis = self.axis % (x.rank - mapped[0])
        if not mapped[1] and self.batch == 0:
            x, updates = spread(size, (mapped[0], mapped[2]), x, updates)
            return ScatterAdd(axis + 1)(x, indices, updates)
        operands = spread(size, mapped, x, indices, updates)
        return ScatterAdd(axis + 1, self.batch + 1)(*operands)

    def workspace(self, x: Type, indices: Type, updates: Type) -> int:
        return 33 * updates.size + 8 * min(x.size, 4 * updates.size)


def _row_sums(rows: Array, values: Array, count: int) -> Array:
    """The sum of the `values` of each row, in float64: [count, inner]."""
    inner = values.shape[1]
    cells = rows if inner == 1 else (rows[:, None] * inner + np.arange(inner)).reshape(-1)
    sums = np.bincount(cells, weights=values.reshape(-1), minlength=count * inner)
    return sums.reshape(count, inner)


class TakeAlongAxis(Composite, inputs=("x", "indices")):
    """For each position, the element of ``x`` that ``indices`` names along ``axis``.

    As NumPy's, without broadcasting: x and indices differ in size along ``axis`` only. Out of range
    (negative too) reads 0.
    """

    axis: Axis

    def typing(self, x: Type, indices: Type) -> Type:
        axis = checks.axis(self, "axis", self.axis, x.rank)
        checks.dtypes(self, ("int64",), indices=indices)
        expected: list[Any] = list(x.shape)
        expected[axis] = indices.shape[axis] if indices.rank == x.rank else "k"
        if list(indices.shape) != expected:
            raise self.mismatch("indices", expected, indices)
        return x.with_shape(indices.shape)

    def expand(self, x: Value, indices: Value) -> Value:
        axis, last = checks.axis(self, "axis", self.axis, x.rank), x.rank - 1
        chosen = Take(last, last)(move_axis(x, axis, last), move_axis(indices, axis, last))
        return move_axis(chosen, last, axis)


# -- positions known when the graph is built -------------------------------------------------------


class GatherScalar(Composite, inputs=("x",), graphm="gatherScalar"):
    """Entry ``index`` of the vector ``x``."""

    index: Index

    def typing(self, x: Type) -> Type:
        checks.rank(self, "x", x, 1, ["n"])
        checks.index(self, self.index, x.shape[0])
        return x.with_shape(())

    def expand(self, x: Value) -> Value:
        return Reshape(())(slice_axis(x, 0, self.index, self.index + 1))


class GatherRow(Composite, inputs=("x",), graphm="gatherRow"):
    """Row ``index`` of the matrix ``x``."""

    index: Index

    def typing(self, x: Type) -> Type:
        checks.rank(self, "x", x, 2, ["r", "c"])
        checks.index(self, self.index, x.shape[0])
        return x.with_shape(x.shape[1:])

    def expand(self, x: Value) -> Value:
        return Reshape(x.shape[1:])(slice_axis(x, 0, self.index, self.index + 1))


class ScatterAddVec(Composite, inputs=("x", "v"), graphm="scatterAddVec"):
    """A copy of the vector ``x`` with the scalar ``v`` added to entry ``index``."""

    index: Index

    def typing(self, x: Type, v: Type) -> Type:
        checks.same_dtype(self, x=x, v=v)
        checks.rank(self, "x", x, 1, ["n"])
        checks.rank(self, "v", v, 0, [])
        checks.index(self, self.index, x.shape[0])
        return x

    def expand(self, x: Value, v: Value) -> Value:
        return _add_row(x, v, self.index)


class ScatterAddRow(Composite, inputs=("x", "v"), graphm="scatterAddRow"):
    """A copy of the matrix ``x`` with the vector ``v`` added to row ``index``."""

    index: Index

    def typing(self, x: Type, v: Type) -> Type:
        checks.same_dtype(self, x=x, v=v)
        checks.rank(self, "x", x, 2, ["r", "c"])
        if v.shape != x.shape[1:]:
            raise self.mismatch("v", x.shape[1:], v)
        checks.index(self, self.index, x.shape[0])
        return x

    def expand(self, x: Value, v: Value) -> Value:
        return _add_row(x, v, self.index)


def _add_row(x: Value, v: Value, index: int) -> Value:
    """`x` with `v` added to its entry `index` along axis 0; for bool, "or"."""
    rest = (0,) * (x.rank - 1)
    low, high = (index, *rest), (x.shape[0] - 1 - index, *rest)
    row = Pad(low, high)(Reshape((1, *v.shape))(v))
    return x | row if x.dtype == "bool" else x + row


# -- positions known in a run only -----------------------------------------------------------------


class GatherScalarNat(Composite, inputs=("x", "i?"), graphm="gatherScalarNat"):
    """Entry ``i`` of the vector ``x``; out of range (negative too) gives 0 and no gradient.

    ``i`` is an int64 scalar, chosen anew in each run, or fixed as the attribute ``index``.
    """

    index: Index | None = None

    def typing(self, x: Type, i: Type | None = None) -> Type:
        _one_of(self, "index", self.index, i)
        if i is not None:
            checks.dtypes(self, ("int64",), i=i)
        checks.rank(self, "x", x, 1, ["n"])
        if i is not None:
            checks.rank(self, "i", i, 0, [])
        return x.with_shape(())

    def expand(self, x: Value, i: Value | None = None) -> Value:
        return Take(0)(x, literal(x.builder, self.index, "int64") if i is None else i)


class GatherNat(Composite):
    """Base of the gathers at a vector of positions, operand ``idx`` or attribute ``indices``."""

    indices: IntArray | None = None
    pattern: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        if self.indices is not None and self.indices.array.ndim != 1:
            raise self.invalid("indices", "a vector of positions is needed")

    def typing(self, x: Type, idx: Type | None = None) -> Type:
        _one_of(self, "indices", self.indices, idx)
        if idx is not None:
            checks.dtypes(self, ("int64",), idx=idx)
        checks.rank(self, "x", x, len(self.pattern), self.pattern)
        if idx is not None:
            checks.rank(self, "idx", idx, 1, ["k"])
            return x.with_shape((idx.size, *x.shape[1:]))
        return x.with_shape((self.fixed().size, *x.shape[1:]))

    def fixed(self) -> Array:
        """The positions given as attribute; none where the operand has them."""
        return np.zeros(0, np.int64) if self.indices is None else self.indices.array

    def expand(self, x: Value, idx: Value | None = None) -> Value:
        return Take(0)(x, literal(x.builder, self.fixed()) if idx is None else idx)


class GatherVecNat(GatherNat, inputs=("x", "idx?"), graphm="gatherVecNat"):
    """Entries of the vector ``x`` at ``idx``; out of range (negative too) gives 0 and no gradient.

    ``idx`` is an int64 vector, chosen anew in each run, or fixed as the attribute ``indices``.
    Where a position occurs twice, its gradients accumulate.
    """

    pattern: ClassVar[tuple[str, ...]] = ("n",)


class GatherRowsNat(GatherNat, inputs=("x", "idx?"), graphm="gatherRowsNat"):
    """Rows of the matrix ``x`` at ``idx``; out of range (negative too) gives a row of zeros.

    ``idx`` is an int64 vector, chosen anew in each run, or fixed as the attribute ``indices``.
    Where a position occurs twice, its gradients accumulate; out of range has none.
    """

    pattern: ClassVar[tuple[str, ...]] = ("r", "c")


def _one_of(op: Op, attribute: str, value: object, operand: Type | None) -> None:
    """Exactly one of an attribute and the operand that it stands in for is given."""
    if operand is None and value is None:
        reason = "it is needed where the operand is not given"
        raise errors.MissingAttribute(op=op.name, attribute=attribute, reason=reason)
    if operand is not None and value is not None:
        raise op.invalid(attribute, "the operand that it stands in for is given too")
