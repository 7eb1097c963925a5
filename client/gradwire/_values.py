"""Python values as tensors and attributes, and the spec of an input.

Arrays keep their dtype as far as the contract has it; Python numbers and lists become float32,
int64 or bool. Where the graph fixes a dtype, a value is converted to it if NumPy calls that the
same kind (float64 to float32, int64 to float32, never float to int); else it is sent as it is, and
the server says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index as as_index
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import numpy as np

from gradwire.wire.tensors import DTYPES, Array

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from gradwire._tensor import Operand
    from gradwire.wire.messages import Dtype, InputSpec

__all__ = [
    "Input",
    "InputLike",
    "Inputs",
    "Literal",
    "Refer",
    "Reference",
    "Sent",
    "TensorLike",
    "as_sent",
    "as_tensor",
    "by_name",
    "input_specs",
    "literal",
    "plain",
    "spread",
]


T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """The declaration of one input.

    Attributes:
        shape: Its sizes; () is a scalar.
        dtype: float32, float64, int64 or bool.
        differentiable: Whether derivatives are taken with respect to it; only floats can be. None
            means that a float is.
    """

    shape: Sequence[int]
    dtype: DtypeLike = "float32"
    differentiable: bool | None = None


# The bare str is for names that a type checker has lost sight of.
DtypeLike: TypeAlias = "Dtype | str | np.dtype[Any] | type[np.generic]"
"""A dtype by its name, or as NumPy has it."""

InputLike: TypeAlias = "Input | Sequence[int] | tuple[Sequence[int], DtypeLike]"
"""An `Input`, its shape (`(2, 3)`), or shape and dtype (`((2, 3), "float64")`)."""

Inputs: TypeAlias = "Mapping[str, InputLike]"
"""The inputs of a session, in order, by name."""


def input_specs(inputs: Mapping[str, InputLike]) -> list[InputSpec]:
    """The declarations as they travel.

    Raises:
        TypeError: They are no mapping by name, or one of them is no shape.
    """
    return [_spec(name, given) for name, given in by_name("inputs", inputs, "(3,)").items()]


def _spec(name: str, given: InputLike) -> InputSpec:
    declared = given if isinstance(given, Input) else _declared(given)
    try:
        sizes = [as_index(size) for size in declared.shape]
    except TypeError:
        raise TypeError(
            f"input {name!r} is declared by a shape such as (2, 3), by shape and dtype, or by "
            f"gw.Input(...), not by {given!r}"
        ) from None
    dtype = declared.dtype if isinstance(declared.dtype, str) else np.dtype(declared.dtype).name
    spec: InputSpec = {"name": name, "shape": sizes, "dtype": cast("Dtype", dtype)}
    if declared.differentiable is not None:
        spec["differentiable"] = declared.differentiable
    return spec


def _declared(given: Sequence[int] | tuple[Sequence[int], DtypeLike]) -> Input:
    second: object = given[1] if isinstance(given, tuple) and len(given) == 2 else None
    if isinstance(second, str | type | np.dtype):
        return Input(cast("Sequence[int]", given[0]), cast("Any", second))
    return Input(cast("Sequence[int]", given))


def by_name(what: str, values: Mapping[str, T], example: str = "array") -> Mapping[str, T]:
    """The values, which have to be given by name.

    Raises:
        TypeError: They are not.
    """
    if not isinstance(cast("object", values), Mapping):  # nobody type-checks every caller
        kind = type(values).__name__
        raise TypeError(f"{what} are given by name, as in {{'x': {example}}}, not as a {kind}")
    return values


def tensor_name(name: object, what: str = "tensors") -> str:
    """The name of a resident tensor; what is a legal one the server says.

    Raises:
        TypeError: It is no string; `what` says where it was given.
    """
    if isinstance(name, str):
        return name
    raise TypeError(
        f"{what}: a resident tensor is named by a string, as in tensors['w'], not by {name!r} "
        f"of type {type(name).__name__}"
    )


class Reference:
    """A resident tensor by its name: it stands for the array that the server keeps under that name.

    Attributes:
        name: The name.

    Raises:
        TypeError: The name is no string.
    """

    def __init__(self, name: str) -> None:
        self.name = tensor_name(name)

    def document(self) -> dict[str, str]:
        """What stands in a request in the array's place."""
        return {"tensor": self.name}


TensorLike: TypeAlias = "ArrayLike | Reference"
"""Anything that NumPy makes an array of, or a resident tensor (`client.tensors["w"]`)."""

Sent: TypeAlias = "Array | Reference"
"""What a request holds of a tensor: all of it, or the name of a resident one."""

Refer: TypeAlias = "Callable[[str], Reference]"
"""Makes a reference that knows its server."""


@dataclass(frozen=True, eq=False)
class Literal:
    """An attribute that is a tensor."""

    array: Sent


_INT64_MAX: Final = 2**63 - 1


def as_tensor(value: ArrayLike, dtype: str | None = None, what: str = "a tensor") -> Array:
    """The array that a value means; see the module's text for its dtype.

    Args:
        value: Anything that NumPy makes an array of.
        dtype: The dtype that the graph fixes, if any.
        what: What the value is for, as an error says it.

    Raises:
        TypeError: Its elements are no numbers or bools.
        ValueError: It is a ragged list.
        OverflowError: An unsigned integer of it does not fit int64.
    """
    loose = type(value) in (bool, int, float, list, tuple)  # np.float64 is a float too
    try:
        array: Array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what} cannot be made of this: {error}") from None
    kind = array.dtype.kind
    if kind not in "biuf":
        given = type(value).__name__ if array.dtype == object else f"values of dtype {array.dtype}"
        raise TypeError(f"{what} is made of real numbers or bools, not of {given}")
    if kind == "u" and array.size and int(array.max()) > _INT64_MAX:
        raise OverflowError(f"{what}: {array.max()} does not fit int64")
    own = {"b": "bool", "i": "int64", "u": "int64"}.get(kind)
    if own is None:
        own = "float32" if loose or array.dtype.itemsize < 4 else array.dtype.name
        own = own if own in DTYPES else "float64"
    if (
        dtype is not None
        and dtype in DTYPES
        and np.can_cast(array.dtype, DTYPES[dtype], "same_kind")
    ):
        own = dtype
    return array.astype(DTYPES[own], copy=False)


def as_sent(value: TensorLike, dtype: str | None = None, what: str = "a tensor") -> Sent:
    """As `as_tensor`, but a resident tensor stays where it is."""
    return value if isinstance(value, Reference) else as_tensor(value, dtype, what)


def literal(value: TensorLike | None, dtype: str | None = None) -> Literal | None:
    """The tensor attribute that a value means; None stays absent."""
    return None if value is None else Literal(as_sent(value, dtype))


def spread(operands: Sequence[Operand | Sequence[Operand]]) -> Sequence[Operand]:
    """The operands of a variadic op, which may come as one list."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        return cast("Sequence[Operand]", operands[0])
    return cast("Sequence[Operand]", operands)


def plain(value: object) -> object:
    """An attribute as JSON holds it: NumPy scalars as numbers, arrays and tuples as lists.

    Raises:
        TypeError: It is nothing that JSON holds.
    """
    if isinstance(value, np.generic):
        return cast("object", value.item())
    if isinstance(value, np.ndarray):
        return cast("object", value.tolist())
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return {name: plain(member) for name, member in members.items()}
    if isinstance(value, np.dtype | type):
        return np.dtype(cast("Any", value)).name
    if value is None or isinstance(value, str | int | float):
        return value
    kind = type(value).__name__
    raise TypeError(f"an attribute is made of numbers, words and lists of them, not of type {kind}")
