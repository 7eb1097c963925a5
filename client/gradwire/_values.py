"""Python values as tensors and attributes, and the spec of an input.

Arrays keep their dtype as far as the contract has it; Python numbers and lists become float32,
int64 or bool. Where the graph fixes a dtype, a value is converted to it if NumPy calls that the
same kind (float64 to float32, int64 to float32, never float to int); else it is sent as it is, and
the server says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np

from gradwire.wire.tensors import DTYPES, Array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradwire._tensor import Operand
    from gradwire.wire.messages import Dtype, InputSpec

__all__ = [
    "Input",
    "InputLike",
    "Inputs",
    "Literal",
    "as_tensor",
    "input_specs",
    "literal",
    "plain",
    "spread",
]


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
    dtype: Dtype = "float32"
    differentiable: bool | None = None


InputLike: TypeAlias = "Input | Sequence[int] | tuple[Sequence[int], Dtype]"
"""An `Input`, its shape (`(2, 3)`), or shape and dtype (`((2, 3), "float64")`)."""

Inputs: TypeAlias = "Mapping[str, InputLike]"
"""The inputs of a session, in order, by name."""


def input_specs(inputs: Mapping[str, InputLike]) -> list[InputSpec]:
    """The declarations as they travel."""
    return [_spec(name, given) for name, given in inputs.items()]


def _spec(name: str, given: InputLike) -> InputSpec:
    if not isinstance(given, Input):
        pair = tuple(given)
        if len(pair) == 2 and isinstance(pair[1], str):
            given = Input(cast("Sequence[int]", pair[0]), pair[1])
        else:
            given = Input(cast("Sequence[int]", pair))
    sizes = [int(size) for size in given.shape]
    spec: InputSpec = {"name": name, "shape": sizes, "dtype": given.dtype}
    if given.differentiable is not None:
        spec["differentiable"] = given.differentiable
    return spec


@dataclass(frozen=True, eq=False)
class Literal:
    """An attribute that is a tensor."""

    array: Array


_INT64_MAX: Final = 2**63 - 1


def as_tensor(value: ArrayLike, dtype: str | None = None) -> Array:
    """The array that a value means; see the module's text for its dtype.

    Args:
        value: Anything that NumPy makes an array of.
        dtype: The dtype that the graph fixes, if any.

    Raises:
        TypeError: Its elements are no numbers or bools.
        ValueError: It is a ragged list.
        OverflowError: An unsigned integer of it does not fit int64.
    """
    loose = type(value) in (bool, int, float, list, tuple)  # np.float64 is a float too
    array: Array = np.asarray(value)
    kind = array.dtype.kind
    if kind not in "biuf":
        raise TypeError(f"values of dtype {array.dtype} cannot be a tensor")
    if kind == "u" and array.size and int(array.max()) > _INT64_MAX:
        raise OverflowError(f"{array.max()} does not fit int64")
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


def literal(value: ArrayLike | None, dtype: str | None = None) -> Literal | None:
    """The tensor attribute that a value means; None stays absent."""
    return None if value is None else Literal(as_tensor(value, dtype))


def spread(operands: Sequence[Operand | Sequence[Operand]]) -> Sequence[Operand]:
    """The operands of a variadic op, which may come as one list."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        return cast("Sequence[Operand]", operands[0])
    return cast("Sequence[Operand]", operands)


def plain(value: object) -> object:
    """An attribute as JSON holds it: NumPy scalars as numbers, arrays and tuples as lists."""
    if isinstance(value, np.generic):
        return cast("object", value.item())
    if isinstance(value, np.ndarray):
        return cast("object", value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return {name: plain(member) for name, member in members.items()}
    return value
