"""Handles: what the client holds of a value on the server, and what Python's operators mean on it.

A handle is an id with the shape and dtype that the server answered; no numbers are behind it. The
ops never broadcast, so the operators do it here: they record `broadcast_to` where NumPy's rule asks
for it, and a constant where one side is a number or an array. Operands that do not fit are sent as
they are, so that the refusal comes from the server with all its facts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, Self, TypeAlias, cast

import numpy as np

from gradwire._indexing import IndexKey, plan_index
from gradwire._ops import Either, TensorOps
from gradwire._values import Literal, as_tensor

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gradwire.wire.messages import HandleDocument, NodeDocument
    from gradwire.wire.tensors import Array

__all__ = ["AsyncTensor", "BaseTensor", "Operand", "Slot", "Tensor", "slot_of"]

Shape: TypeAlias = tuple[int, ...]

_NO_NUMBERS: Final = "a handle holds no numbers: they come of a run, session.function(handle)(...)"


class Owner(Protocol):
    """What a handle asks of the session it belongs to."""

    def emit(
        self,
        op: str,
        operands: Sequence[Operand | None],
        attrs: Mapping[str, object] | None = None,
        *,
        name: str | None = None,
        either: Either | None = None,
        shape: Shape | None = None,
    ) -> BaseTensor:
        """Records one op."""
        ...

    def group(self) -> AbstractContextManager[None]:
        """Ops recorded inside go out in one request."""
        ...

    def learn(self, slot: Slot) -> None:
        """Finds out the type of a value whose op still waits."""
        ...


@dataclass(eq=False)
class Slot:
    """What is known of one value; shared by its handle and the session."""

    owner: Owner
    id: int
    name: str | None
    shape: Shape | None
    dtype: str | None
    pending: bool = True
    refused: bool = False

    def check(self) -> None:
        """Raises RuntimeError where the op behind the value was never appended."""
        if self.refused:
            raise RuntimeError("this value does not exist: its op was refused or discarded")

    def settle(self, node: NodeDocument) -> None:
        """Takes over what the server answered."""
        self.id, self.name = node["id"], node["name"]
        self.shape, self.dtype = tuple(node["shape"]), node["dtype"]
        self.pending = False

    def document(self) -> HandleDocument:
        """The typed reference that the server checks."""
        self.check()
        assert self.shape is not None  # it is known as soon as the value is not pending
        return {"id": self.id, "shape": list(self.shape)}


def slot_of(tensor: BaseTensor) -> Slot:
    """The slot behind a handle."""
    return tensor._slot  # pyright: ignore[reportPrivateUsage] # this module's own


class BaseTensor(TensorOps):
    """A handle of one value of a session: its id, shape and dtype, and operators that append ops.

    `+ - * / ** @`, `< <= > >=`, unary `-`, `abs()` and `[...]` (integers, slices, None, Ellipsis)
    mean what they mean in NumPy, broadcasting included. `==` tells whether two handles are the same
    one; the method `equal` is the op. A number or array beside a handle becomes a constant of the
    handle's dtype.
    """

    # NumPy arrays leave `array + handle` to us, and are not made of a handle element by element.
    __array_ufunc__ = None

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    @property
    def id(self) -> int:
        """The id in the session; in a batch, the one that the value gets if no other writes."""
        self._slot.check()
        return self._slot.id

    @property
    def name(self) -> str | None:
        """The name, if it has one."""
        return self._slot.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        if self._slot.shape is None or self._slot.refused:
            self._slot.owner.learn(self._slot)
        return cast("Shape", self._slot.shape)

    @property
    def dtype(self) -> str:
        """float32, float64, int64 or bool."""
        if self._slot.dtype is None or self._slot.refused:
            self._slot.owner.learn(self._slot)
        return cast("str", self._slot.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def T(self) -> Self:  # noqa: N802 - NumPy's name
        """The value with its axes in reverse order."""
        if self.ndim < 2:
            return self
        perm = list(range(self.ndim))[::-1]
        return self._emit("transpose", (self,), {"perm": perm}, self.shape[::-1])

    def mean(
        self,
        axis: int | Sequence[int] | None = None,
        *,
        keepdims: bool = False,
        name: str | None = None,
    ) -> Self:
        """The mean over an axis, several, or all: `reduce_mean`."""
        return self.reduce_mean(axis=axis, keepdims=keepdims, name=name)

    def sum(
        self,
        axis: int | Sequence[int] | None = None,
        *,
        keepdims: bool = False,
        name: str | None = None,
    ) -> Self:
        """The sum over all elements (`sum`), or over an axis or several (`reduce_sum`)."""
        if axis is None and not keepdims:
            return super().sum(name=name)
        return self.reduce_sum(axis=axis, keepdims=keepdims, name=name)

    def max(
        self,
        axis: int | Sequence[int] | None = None,
        *,
        keepdims: bool = False,
        name: str | None = None,
    ) -> Self:
        """The largest element over an axis, several, or all: `reduce_max`."""
        return self.reduce_max(axis=axis, keepdims=keepdims, name=name)

    def min(
        self,
        axis: int | Sequence[int] | None = None,
        *,
        keepdims: bool = False,
        name: str | None = None,
    ) -> Self:
        """The smallest element over an axis, several, or all: `reduce_min`."""
        return self.reduce_min(axis=axis, keepdims=keepdims, name=name)

    # -- operators ---------------------------------------------------------------------------------

    def __add__(self, other: Operand) -> Self:
        return self._binary("add", self, other)

    def __radd__(self, other: Operand) -> Self:
        return self._binary("add", other, self)

    def __sub__(self, other: Operand) -> Self:
        return self._binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Self:
        return self._binary("sub", other, self)

    def __mul__(self, other: Operand) -> Self:
        if isinstance(other, int | float) and not isinstance(other, bool):
            return self._emit("scale", (self,), {"c": other}, self._slot.shape)
        return self._binary("mul", self, other)

    def __rmul__(self, other: Operand) -> Self:
        return self * other

    def __truediv__(self, other: Operand) -> Self:
        return self._binary("div", self, other)

    def __rtruediv__(self, other: Operand) -> Self:
        return self._binary("div", other, self)

    def __pow__(self, other: Operand) -> Self:
        if isinstance(other, int | float) and other == 2:
            return self._emit("square", (self,), {}, self._slot.shape)
        return self._binary("pow", self, other)

    def __rpow__(self, other: Operand) -> Self:
        return self._binary("pow", other, self)

    def __matmul__(self, other: Operand) -> Self:
        return self._matmul(self, other)

    def __rmatmul__(self, other: Operand) -> Self:
        return self._matmul(other, self)

    def __lt__(self, other: Operand) -> Self:
        return self._binary("less", self, other)

    def __le__(self, other: Operand) -> Self:
        return self._binary("less_equal", self, other)

    def __gt__(self, other: Operand) -> Self:
        return self._binary("greater", self, other)

    def __ge__(self, other: Operand) -> Self:
        return self._binary("greater_equal", self, other)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | float | np.generic | np.ndarray):
            raise TypeError("== compares handles, not values: use x.equal(...) or x.not_equal(...)")
        return self is other

    __hash__ = object.__hash__

    def __neg__(self) -> Self:
        return self._emit("neg", (self,), {}, self._slot.shape)

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Self:
        return self._emit("abs", (self,), {}, self._slot.shape)

    def __getitem__(self, key: IndexKey) -> Self:
        plan = plan_index(self.shape, key)
        result = self
        with self._slot.owner.group():
            if plan.cut is not None:
                starts, limits, strides = plan.cut
                attrs = {"starts": starts, "limits": limits, "strides": strides}
                result = self._emit("slice", (result,), attrs, plan.sliced)
            if plan.flip is not None:
                result = self._emit("flip", (result,), {"axes": plan.flip}, plan.sliced)
            if plan.shape is not None:
                attrs = {"shape": list(plan.shape)}
                result = self._emit("reshape", (result,), attrs, plan.shape)
        return result

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Self]:
        return (self[k] for k in range(len(self)))

    def __bool__(self) -> NoReturn:
        raise TypeError(_NO_NUMBERS)

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(_NO_NUMBERS)

    def __repr__(self) -> str:
        slot = self._slot
        if slot.refused:
            return f"<{type(self).__name__} that does not exist>"
        told = slot.shape is not None and slot.dtype is not None
        known = f"{slot.dtype}{list(cast('Shape', slot.shape))}" if told else "?"
        label = "" if slot.name is None else f" {slot.name!r}"
        return f"<{type(self).__name__} {slot.id}{label} {known}>"

    # -- how they are made -------------------------------------------------------------------------

    def _apply(
        self,
        op: str,
        operands: Sequence[Operand | None],
        attrs: Mapping[str, object],
        *,
        name: str | None = None,
        either: Either | None = None,
    ) -> Self:
        whole = (self, *operands)
        emitted = self._slot.owner.emit(op, whole, attrs, name=name, either=either)
        return cast("Self", emitted)

    def _emit(
        self,
        op: str,
        operands: Sequence[Operand],
        attrs: Mapping[str, object],
        shape: Shape | None,
    ) -> Self:
        return cast("Self", self._slot.owner.emit(op, operands, attrs, shape=shape))

    def _lift(self, value: Operand) -> Self:
        """A handle as it is, anything else as a constant of this handle's dtype."""
        if isinstance(value, BaseTensor):
            return cast("Self", value)
        if isinstance(value, str):
            raise TypeError("an operator takes handles, numbers and arrays, no names")
        array = as_tensor(value, self.dtype, "an operand")
        return self._emit("const", (), {"value": Literal(array)}, array.shape)

    def _stretch(self, value: Self, shape: Shape) -> Self:
        if value.shape == shape:
            return value
        return self._emit("broadcast_to", (value,), {"shape": list(shape)}, shape)

    def _binary(self, op: str, left: Operand, right: Operand) -> Self:
        with self._slot.owner.group():
            a, b = self._lift(left), self._lift(right)
            shape = _broadcast(a.shape, b.shape)
            if shape is not None:
                a, b = self._stretch(a, shape), self._stretch(b, shape)
            return self._emit(op, (a, b), {}, None)  # told, or refused

    def _matmul(self, left: Operand, right: Operand) -> Self:
        with self._slot.owner.group():
            a, b = self._lift(left), self._lift(right)
            s, t = a.shape, b.shape
            if len(s) == 2 and len(t) == 2:
                return self._emit("matmul", (a, b), {}, (s[0], t[1]))
            if not s or not t:
                return self._emit("matmul", (a, b), {}, None)  # refused: no scalar operands
            along = max(len(t) - 2, 0)  # the contracted axis of b
            if len(s) > 2 and len(t) > 2:
                batch = _broadcast(s[:-2], t[:-2])
                if batch is None:
                    return self._emit("bmm", (a, b), {}, None)  # refused: the batches do not fit
                a, b = self._stretch(a, batch + s[-2:]), self._stretch(b, batch + t[-2:])
                if len(batch) == 1:
                    return self._emit("bmm", (a, b), {}, (*batch, s[-2], t[-1]))
                axes = list(range(len(batch)))
                attrs = {"contract": [[len(batch) + 1], [len(batch)]], "batch": [axes, axes]}
                return self._emit("dot_general", (a, b), attrs, (*batch, s[-2], t[-1]))
            attrs = {"contract": [[len(s) - 1], [along]]}
            shape = s[:-1] + t[:along] + t[along + 1 :]
            result = self._emit("dot_general", (a, b), attrs, shape)
            if len(s) == 2 and len(t) > 2:  # [m] then b's batch: bring m behind the batch
                perm = [*range(1, len(t) - 1), 0, len(t) - 1]
                shape = (*t[:-2], s[0], t[-1])
                result = self._emit("transpose", (result,), {"perm": perm}, shape)
            return result


def _broadcast(left: Shape, right: Shape) -> Shape | None:
    """The shape that NumPy's rule gives, or None where the two do not fit."""
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right, strict=True)
    shape: list[int] = []
    for a, b in pairs:
        if a != b and 1 not in (a, b):
            return None
        shape.append(b if a == 1 else a)
    return tuple(shape)


class Tensor(BaseTensor):
    """A handle of a `Session`."""


class AsyncTensor(BaseTensor):
    """A handle of an `AsyncSession`; awaiting it sends what is recorded and gives the handle."""

    def __await__(self) -> Generator[object, None, Self]:
        slot = self._slot
        if slot.pending:
            yield from cast("AsyncOwner", slot.owner).send_now().__await__()
        slot.check()
        return self


class AsyncOwner(Owner, Protocol):
    """An owner that an `await` can flush."""

    async def send_now(self) -> None:
        """Sends what is pending."""
        ...


Operand: TypeAlias = "BaseTensor | str | float | Array | np.generic"
"""An operand of an op: a handle, the name of a value, or a number or array (a constant then).

A constant takes the dtype of the float operands beside it, if NumPy calls its own the same kind; an
integer only where all operands have one shape, as in `g.maximum(x, 0)`, since elsewhere it may be
an index. There a number takes the shape as well.
"""
