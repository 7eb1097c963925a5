"""Attribute kinds: how an op's static attributes are read, written and described.

A field of an op is annotated with one of the aliases at the end (``axis: Axis``). The kind behind
it parses the value that came over the wire into a canonical, hashable Python value, says why when
it cannot, and yields the JSON schema and the type that the generated client shows.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from ..ir import DTYPES, MAX_RANK


class BadAttribute(ValueError):
    """A value is no instance of its kind; the message is the reason."""


class Literal:
    """A read-only array that hashes and compares by content, so that ops holding it do too.

    Shape, dtype and the bytes (not the numbers: NaN equals itself, -0.0 is not 0.0) decide.
    """

    __slots__ = ("__dict__", "array")

    def __init__(self, array: Any) -> None:
        fixed = np.array(array, order="C", copy=True)
        fixed.flags.writeable = False
        self.array: np.ndarray[Any, Any] = fixed

    @classmethod
    def adopt(cls, array: np.ndarray[Any, Any], sha256: str | None = None) -> Literal:
        """An array as it is, not copied: nobody may write to it any more.

        Args:
            array: C-contiguous; it may be a file that is mapped into memory.
            sha256: Of its bytes, where that is known: then they are not read for it.
        """
        adopted = cls.__new__(cls)
        adopted.array = array.view()
        adopted.array.flags.writeable = False
        if sha256 is not None:
            adopted.__dict__["sha256"] = sha256
        return adopted

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.array.reshape(-1).view(np.uint8).data).hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of dtype, shape and bytes."""
        head = f"{self.array.dtype.name}{self.array.shape}{self.sha256}"
        return hashlib.sha256(head.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Literal({self.array.dtype.name}{list(self.array.shape)}:{self.digest})"


@dataclass(frozen=True)
class Kind:
    """Base of attribute kinds."""

    @property
    def annotation(self) -> str:
        """The Python type that the generated client shows."""
        raise NotImplementedError

    @property
    def is_tensor(self) -> bool:
        """Whether the value is an array rather than plain JSON."""
        return False

    @property
    def dtype(self) -> str | None:
        """For tensors: the dtype that the kind fixes, if any."""
        return None

    @property
    def is_argument(self) -> bool:
        """Whether a compiled kernel takes it as an argument (it is no part of the structure)."""
        return False

    def parse(self, value: Any) -> Any:
        """The canonical value; raises `BadAttribute` with the reason."""
        raise NotImplementedError

    def unparse(self, value: Any) -> Any:
        """The value as it travels: plain JSON, or an array for tensors."""
        return list(value) if isinstance(value, tuple) else value

    def schema(self) -> dict[str, Any]:
        """JSON schema of what `parse` takes."""
        raise NotImplementedError


def _integer(value: Any, low: int | None, high: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise BadAttribute("an integer is needed")
    number = int(value)
    if low is not None and number < low:
        raise BadAttribute(f"it must be at least {low}")
    if high is not None and number > high:
        raise BadAttribute(f"it must be at most {high}")
    return number


_LIMIT = 2**63 - 1


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number within bounds."""

    low: int = -_LIMIT
    high: int = _LIMIT

    @property
    def annotation(self) -> str:
        return "int"

    def parse(self, value: Any) -> int:
        return _integer(value, self.low, self.high)

    def schema(self) -> dict[str, Any]:
        bounds = {"minimum": self.low} if self.low != -_LIMIT else {}
        return {"type": "integer", **bounds}


@dataclass(frozen=True)
class Unsigned64(Kind):
    """A number below 2^64; also as a decimal string, which every JSON library keeps exact."""

    @property
    def annotation(self) -> str:
        return "int"

    @property
    def is_argument(self) -> bool:
        return True

    def parse(self, value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
            value = int(value)
        return _integer(value, 0, 2**64 - 1)

    def unparse(self, value: Any) -> Any:
        return value if value <= 2**53 else str(value)

    def schema(self) -> dict[str, Any]:
        return {
            "oneOf": [
                {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
                {"type": "string", "pattern": "^[0-9]{1,20}$"},
            ]
        }


_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Number(Kind):
    """A real number, or an integer where the operand is one; non-finite ones as strings."""

    @property
    def annotation(self) -> str:
        return "float"

    @property
    def is_argument(self) -> bool:
        return True

    def parse(self, value: Any) -> float | int:
        if isinstance(value, str) and value in _WORDS:
            return _WORDS[value]
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise BadAttribute("a number is needed")
        if isinstance(value, int | np.integer):
            if abs(int(value)) > _LIMIT:
                raise BadAttribute("it is out of range")
            return int(value)
        return float(value)

    def unparse(self, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return next(w for w, n in _WORDS.items() if n == value or (n != n and value != value))
        return value

    def schema(self) -> dict[str, Any]:
        return {"oneOf": [{"type": "number"}, {"type": "string", "enum": list(_WORDS)}]}


@dataclass(frozen=True)
class Flag(Kind):
    """true or false."""

    @property
    def annotation(self) -> str:
        return "bool"

    def parse(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise BadAttribute("true or false is needed")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Word(Kind):
    """One of a few words, or any text when none are listed."""

    choices: tuple[str, ...] = ()

    @property
    def annotation(self) -> str:
        if not self.choices:
            return "str"
        return f"Literal[{', '.join(repr(c).replace(chr(39), chr(34)) for c in self.choices)}]"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise BadAttribute("a string is needed")
        if self.choices and value not in self.choices:
            raise BadAttribute(f"it must be one of {', '.join(self.choices)}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", **({"enum": list(self.choices)} if self.choices else {})}


@dataclass(frozen=True)
class Integers(Kind):
    """A list of whole numbers within bounds; a single number too where `single` allows it."""

    low: int = -_LIMIT
    single: bool = False

    @property
    def annotation(self) -> str:
        return "int | Sequence[int]" if self.single else "Sequence[int]"

    def parse(self, value: Any) -> int | tuple[int, ...]:
        if isinstance(value, list | tuple):
            if len(value) > MAX_RANK:
                raise BadAttribute(f"at most {MAX_RANK} entries are allowed")
            return tuple(_integer(v, self.low, _LIMIT) for v in value)
        if self.single:
            try:
                return _integer(value, self.low, _LIMIT)
            except BadAttribute as reason:
                if not isinstance(value, int) or isinstance(value, bool):
                    raise BadAttribute("an integer or a list of integers is needed") from reason
                raise
        raise BadAttribute("a list of integers is needed")

    def schema(self) -> dict[str, Any]:
        bounds = {"minimum": self.low} if self.low != -_LIMIT else {}
        item = {"type": "integer", **bounds}
        many = {"type": "array", "items": item, "maxItems": MAX_RANK}
        return {"oneOf": [item, many]} if self.single else many


@dataclass(frozen=True)
class Pairing(Kind):
    """Two lists of axes of equal length: those of the first operand, those of the second."""

    @property
    def annotation(self) -> str:
        return "Sequence[Sequence[int]]"

    def parse(self, value: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        one = Integers()
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise BadAttribute("two lists of axes are needed: [[of the first], [of the second]]")
        a, b = one.parse(value[0]), one.parse(value[1])
        if not isinstance(a, tuple) or not isinstance(b, tuple) or len(a) != len(b):
            raise BadAttribute("the two lists must have the same length")
        return a, b

    def unparse(self, value: Any) -> Any:
        return [list(value[0]), list(value[1])]

    def schema(self) -> dict[str, Any]:
        axes = {"type": "array", "items": {"type": "integer"}}
        return {"type": "array", "items": axes, "minItems": 2, "maxItems": 2}


@dataclass(frozen=True)
class Tensor(Kind):
    """An array, of a fixed dtype where one is stated."""

    fixed: str | None = None

    @property
    def annotation(self) -> str:
        return "TensorLike"

    @property
    def is_tensor(self) -> bool:
        return True

    @property
    def dtype(self) -> str | None:
        return self.fixed

    @property
    def is_argument(self) -> bool:
        return True

    def parse(self, value: Any) -> Literal:
        if isinstance(value, Literal):
            return value
        if not isinstance(value, np.ndarray) or value.dtype.name not in DTYPES:
            raise BadAttribute("a tensor is needed")
        if self.fixed is not None and value.dtype.name != self.fixed:
            raise BadAttribute(f"a tensor of dtype {self.fixed} is needed, not {value.dtype.name}")
        return Literal(value)

    def unparse(self, value: Any) -> Any:
        return value.array

    def schema(self) -> dict[str, Any]:
        return {"$ref": "#/components/schemas/Tensor"}


AnyInt = Annotated[int, Integer()]
Axis = Annotated[int, Integer()]
Index = Annotated[int, Integer()]
Natural = Annotated[int, Integer(low=0)]
Positive = Annotated[int, Integer(low=1)]
Seed = Annotated[int, Unsigned64()]
Real = Annotated[float, Number()]
Bool = Annotated[bool, Flag()]
Dtype = Annotated[str, Word(choices=DTYPES)]
FloatDtype = Annotated[str, Word(choices=("float32", "float64"))]
NumericDtype = Annotated[str, Word(choices=("float32", "float64", "int64"))]
Text = Annotated[str, Word()]
Ints = Annotated[tuple[int, ...], Integers()]
Naturals = Annotated[tuple[int, ...], Integers(low=0)]
Positives = Annotated[tuple[int, ...], Integers(low=1)]
IntOrInts = Annotated[int | tuple[int, ...], Integers(single=True)]
NaturalOrNaturals = Annotated[int | tuple[int, ...], Integers(low=0, single=True)]
PositiveOrPositives = Annotated[int | tuple[int, ...], Integers(low=1, single=True)]
AxisPairs = Annotated[tuple[tuple[int, ...], tuple[int, ...]], Pairing()]
Array = Annotated[Literal, Tensor()]
IntArray = Annotated[Literal, Tensor(fixed="int64")]
BoolArray = Annotated[Literal, Tensor(fixed="bool")]
