"""The JSON form of a tensor, both ways: the only place that knows what a number in it may be.

A tensor is `{"dtype", "shape", "data"}` with `data` flat or nested, `{"dtype", "shape", "base64"}`
with little-endian bytes, or a bare number or nested list. What a document leaves out is filled in
from what the graph fixes. A document that contradicts itself is refused; a sound tensor of another
shape or dtype than the graph's is returned as it is, for the caller to compare and report.

Lists are flattened and checked level by level with C-speed iterators (`chain`, `map(type, ...)`),
so that no Python bytecode runs per element unless something must be searched for.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import orjson

from gradwire.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "DTYPES",
    "EXACT",
    "MAX_RANK",
    "Array",
    "decode_tensor",
    "encode_tensor",
    "tensor_document",
]

Array: TypeAlias = npt.NDArray[Any]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "float32": np.dtype("<f4"),
        "float64": np.dtype("<f8"),
        "int64": np.dtype("<i8"),
        "bool": np.dtype("?"),
    }
)
"""The dtypes of the contract, with their layout on the wire."""

MAX_RANK: Final = 32
"""The largest number of axes."""

_FIELDS: Final = frozenset({"dtype", "shape", "data", "base64"})
_NON_FINITE: Final = MappingProxyType(
    {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
)
_DECIMAL: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
EXACT: Final = 2**53  # from here on, readers that hold numbers as float64 lose integers


def decode_tensor(
    doc: object, path: str, *, dtype: str | None, shape: tuple[int | None, ...] | None
) -> Array:
    """The array that a JSON tensor means.

    `dtype` and `shape` are what the graph fixes at this place, None where it fixes nothing; a size
    of None is a mapped axis of any length. They are used only for what the document leaves out:
    `data` that is flat, or base64, without a shape fills the fixed one when the counts agree. A
    bare list states its own shape by its nesting; behind an empty list, which can state no more,
    come the fixed sizes. With no dtype anywhere, true/false give bool and numbers float32.

    Returns:
        A C-contiguous array of the document's dtype and shape; read-only where it came from base64.

    Raises:
        WireError: `malformed_tensor` for a document that contradicts itself (ragged, shape against
            data, both forms, a bool among numbers, 1.5 in int64, a number beyond the dtype's
            range), `unknown_dtype` for a dtype that is none.
    """
    if not isinstance(doc, dict):
        return _decode_data(doc, path, dtype, None, shape, flat_fills=False)
    fields = cast("dict[str, object]", doc)
    for name in fields:
        if name not in _FIELDS:
            raise WireError("malformed_tensor", path, f"it has an unknown field {name[:100]!r}")
    own_dtype = _read_dtype(fields.get("dtype"), path)
    own_shape = _read_shape(fields.get("shape"), path)
    data, encoded = fields.get("data"), fields.get("base64")
    if data is not None and encoded is not None:
        raise WireError("malformed_tensor", path, "it has both data and base64; give one")
    if data is not None:
        return _decode_data(data, path, own_dtype or dtype, own_shape, shape, flat_fills=True)
    if encoded is not None:
        return _decode_base64(encoded, path, own_dtype or dtype, own_shape, shape)
    raise WireError("malformed_tensor", path, "it has neither data nor base64")


def encode_tensor(
    array: Array, form: Literal["data", "base64"] = "data"
) -> dict[str, str | list[int] | list[object]]:
    """The JSON form of an array: `dtype`, `shape` and flat row-major `data`, or `base64`.

    Non-finite numbers become the strings "NaN", "Infinity" and "-Infinity"; integers of 2^53 and
    beyond become decimal strings.

    Raises:
        TypeError: The array's dtype is none of `DTYPES`.
    """
    name = array.dtype.name
    if name not in DTYPES:
        raise TypeError(f"a tensor cannot have dtype {name}; it is one of {', '.join(DTYPES)}")
    head: dict[str, str | list[int] | list[object]] = {"dtype": name, "shape": list(array.shape)}
    if form == "base64":
        raw = np.ascontiguousarray(array, DTYPES[name])
        return {**head, "base64": base64.b64encode(raw.tobytes()).decode("ascii")}
    return {**head, "data": _encode_flat(array.reshape(-1))}


def tensor_document(array: Array, form: Literal["data", "base64"] = "data") -> dict[str, Any]:
    """As `encode_tensor`, for orjson to write: numbers are text already, float32 in its shortest.

    Raises:
        TypeError: The array's dtype is none of `DTYPES`.
    """
    if form == "base64" or array.dtype.name not in DTYPES:
        return dict(encode_tensor(array, form))
    flat = np.ascontiguousarray(array, DTYPES[array.dtype.name]).reshape(-1)
    plain = _json_can_hold(flat)
    data = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY) if plain else _elements(flat)
    shape = list(array.shape)
    return {"dtype": array.dtype.name, "shape": shape, "data": orjson.Fragment(data)}


_PART: Final = 2**20


def _elements(flat: Array) -> bytes:
    """A list with words among its numbers, part by part: Python objects take ten times as much."""
    parts = (_part(flat[start : start + _PART]) for start in range(0, flat.size, _PART))
    return b"[" + b",".join(parts) + b"]"


def _part(flat: Array) -> bytes:
    if flat.dtype.kind != "f":
        return orjson.dumps(_encode_flat(flat))[1:-1]
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    odd = flat[~np.isfinite(flat)]
    signed = np.where(odd > 0, b'"Infinity"', b'"-Infinity"')
    words: list[bytes] = np.where(np.isnan(odd), b'"NaN"', signed).tolist()
    # orjson writes null where there is no number, and nowhere else.
    return b"".join(chain.from_iterable(zip(text.split(b"null"), [*words, b""], strict=True)))


def _json_can_hold(array: Array) -> bool:
    """Whether every element is a JSON number or bool that any reader keeps exact."""
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).all())
    return array.dtype.kind == "b" or bool((np.abs(array.astype(np.float64)) < EXACT).all())


def _encode_flat(flat: Array) -> list[object]:
    values: list[object] = flat.tolist()
    if flat.dtype.kind == "f":
        for at in np.flatnonzero(~np.isfinite(flat)).tolist():
            number = cast("float", values[at])
            values[at] = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    elif flat.dtype.kind == "i":
        for at in np.flatnonzero((flat >= EXACT) | (flat <= -EXACT)).tolist():
            values[at] = str(values[at])
    return values


# -- the parts of a document -----------------------------------------------------------------------


def _inside(path: str, name: str) -> str:
    """Where a member of a document is; the document itself may be the whole body."""
    return f"{path}/{name}" if path else name


def _read_dtype(value: object, path: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise WireError("malformed_tensor", _inside(path, "dtype"), f"{_show(value)} is no string")
    if value not in DTYPES:
        known = ", ".join(DTYPES)
        raise WireError(
            "unknown_dtype", _inside(path, "dtype"), f"it is one of {known}", value[:100]
        )
    return value


def _read_shape(value: object, path: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    where = _inside(path, "shape")
    if not isinstance(value, list):
        raise WireError("malformed_tensor", where, f"{_show(value)} is no list of sizes")
    sizes = cast("list[object]", value)
    if len(sizes) > MAX_RANK:
        raise WireError("malformed_tensor", where, f"it has more than {MAX_RANK} axes")
    for size in sizes:
        if type(size) is not int or not 0 <= size < 2**63:
            raise WireError("malformed_tensor", where, f"{_show(size)} is no size of an axis")
    return tuple(cast("list[int]", sizes))


def _decode_data(
    data: object,
    path: str,
    dtype: str | None,
    own: tuple[int, ...] | None,
    fixed: tuple[int | None, ...] | None,
    *,
    flat_fills: bool,
) -> Array:
    leaves, nesting = _flatten(data, path)
    flat = _numbers(leaves, nesting, path, dtype)
    if own is not None:
        if nesting != (math.prod(own),) and _completed(nesting, own) != own:
            reason = f"its shape is {list(own)}, but its data has shape {list(nesting)}"
            raise WireError("malformed_tensor", path, reason)
        return _reshaped(flat, own, path)
    if fixed is not None and flat_fills and len(nesting) == 1:
        return _filled(flat, fixed, path)
    return _reshaped(flat, _completed(nesting, fixed or ()), path)


def _completed(nesting: tuple[int, ...], wanted: tuple[int | None, ...]) -> tuple[int, ...]:
    """The nesting, with the sizes behind a zero that lists cannot state ([] for [0, 3])."""
    if 0 not in nesting or len(wanted) <= len(nesting):
        return nesting
    rest = wanted[len(nesting) :]
    known = tuple(size for size in rest if size is not None)
    heads = zip(nesting, wanted, strict=False)
    fits = len(known) == len(rest) and all(size in (here, None) for here, size in heads)
    return nesting + known if fits else nesting


def _decode_base64(
    encoded: object,
    path: str,
    dtype: str | None,
    own: tuple[int, ...] | None,
    fixed: tuple[int | None, ...] | None,
) -> Array:
    where = _inside(path, "base64")
    if not isinstance(encoded, str):
        raise WireError("malformed_tensor", where, f"{_show(encoded)} is no string")
    if dtype is None:
        raise WireError("malformed_tensor", path, "base64 needs a dtype here")
    if own is None and fixed is None:
        raise WireError("malformed_tensor", path, "base64 needs a shape here")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise WireError("malformed_tensor", where, "it is not base64") from None
    layout = DTYPES[dtype]
    if len(raw) % layout.itemsize:
        reason = f"{len(raw)} bytes are no whole number of {dtype} ({layout.itemsize} bytes each)"
        raise WireError("malformed_tensor", where, reason)
    count = len(raw) // layout.itemsize
    if own is not None and count != math.prod(own):
        reason = f"shape {list(own)} takes {math.prod(own)} numbers, the bytes hold {count}"
        raise WireError("malformed_tensor", where, reason)
    if dtype == "bool" and count and max(raw) > 1:
        raise WireError("malformed_tensor", where, "a bool is a byte of 0 or 1")
    flat = np.frombuffer(raw, layout)
    if own is not None:
        return _reshaped(flat, own, path)
    assert fixed is not None  # checked above
    return _filled(flat, fixed, path)


def _reshaped(flat: Array, shape: tuple[int, ...], path: str) -> Array:
    try:
        return flat.reshape(shape)
    except ValueError:  # sizes beside a zero whose product NumPy cannot hold
        reason = f"the sizes {list(shape)} are too large"
        raise WireError("malformed_tensor", _inside(path, "shape"), reason) from None


def _filled(flat: Array, fixed: tuple[int | None, ...], path: str) -> Array:
    """Flat numbers in the shape that the graph fixes; still flat where the counts disagree."""
    free = fixed.count(None)
    known = math.prod(size for size in fixed if size is not None)
    if free == 0 and known == flat.size:
        return _reshaped(flat, cast("tuple[int, ...]", fixed), path)
    if free == 1 and known and flat.size % known == 0:
        whole = tuple(flat.size // known if size is None else size for size in fixed)
        return _reshaped(flat, whole, path)
    return flat


# -- lists -----------------------------------------------------------------------------------------


def _flatten(data: object, path: str) -> tuple[list[object], tuple[int, ...]]:
    """The leaves of a nested list in row-major order, and its shape."""
    if not isinstance(data, list):
        return [data], ()
    level = cast("list[object]", data)
    shape = [len(level)]
    while level:
        kinds = set(map(type, level))
        if list not in kinds:
            break
        rows = cast("list[list[object]]", level)
        if len(kinds) > 1:
            raise WireError("malformed_tensor", path, _ragged(level, shape))
        if len(set(map(len, rows))) > 1:
            raise WireError("malformed_tensor", path, _ragged(level, shape))
        if len(shape) == MAX_RANK:
            raise WireError("malformed_tensor", path, f"it has more than {MAX_RANK} axes")
        shape.append(len(rows[0]))
        level = list(chain.from_iterable(rows))
    return level, tuple(shape)


def _ragged(level: list[object], shape: Sequence[int]) -> str:
    def size(item: object) -> int:
        return len(cast("list[object]", item)) if isinstance(item, list) else -1

    first = size(level[0])
    at = next(k for k, item in enumerate(level) if size(item) != first)
    before, here = _show_row(first), _show_row(size(level[at]))
    return f"it is ragged: element {_place(at, shape)} is {here}, those before it are {before}"


def _show_row(size: int) -> str:
    return "a number" if size < 0 else f"a list of {size}"


def _numbers(leaves: list[object], nesting: tuple[int, ...], path: str, dtype: str | None) -> Array:
    """A flat array of the leaves, every one of which the dtype can hold exactly enough."""
    kinds = set(map(type, leaves))
    if dtype is None:
        dtype = "bool" if kinds == {bool} else "float32"

    def refuse(accepts: Callable[[object], bool]) -> NoReturn:
        at = next(k for k, leaf in enumerate(leaves) if not accepts(leaf))
        where = f"element {_place(at, nesting)} is" if nesting else "it is"
        reason = f"{where} {_show(leaves[at])}, which {dtype} cannot hold"
        raise WireError("malformed_tensor", path, reason)

    if dtype == "bool":
        if not kinds <= {bool}:
            refuse(lambda leaf: isinstance(leaf, bool))
        return np.array(leaves, np.bool_)
    if dtype == "int64":
        if not kinds <= {int}:
            if not all(map(_is_int64, leaves)):
                refuse(_is_int64)
            leaves = [int(cast("int | float | str", leaf)) for leaf in leaves]
        try:
            return np.array(leaves, np.int64)
        except OverflowError:
            refuse(_is_int64)
    single = dtype == "float32"
    if not kinds <= {int, float}:
        if not all(map(_is_float_or_word, leaves)):
            refuse(_is_float_or_word)
        words = [k for k, leaf in enumerate(leaves) if isinstance(leaf, str)]
        numbers = [0.0 if isinstance(leaf, str) else leaf for leaf in leaves]
        array = _floats(numbers, single, refuse)
        array[words] = [_NON_FINITE[cast("str", leaves[k])] for k in words]
        return array
    return _floats(leaves, single, refuse)


def _floats(
    numbers: list[object], single: bool, refuse: Callable[[Callable[[object], bool]], NoReturn]
) -> Array:
    limit = float(np.finfo(np.float32).max) if single else math.inf

    def fits(number: object) -> bool:
        if isinstance(number, str):
            return True
        try:
            wide = float(cast("int | float", number))
        except OverflowError:
            return False
        return math.isfinite(wide) and (not single or _rounds_into_float32(wide, limit))

    try:
        wide = np.array(numbers, np.float64)
    except OverflowError:  # an integer beyond float64
        refuse(fits)
    if not single:
        if not np.isfinite(wide).all():
            refuse(fits)
        return wide
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    if not np.isfinite(narrow).all():
        refuse(fits)
    return narrow


def _rounds_into_float32(number: float, limit: float) -> bool:
    # Half a unit above the largest float32 still rounds down to it.
    return abs(number) < limit + 2.0**103


def _is_int64(leaf: object) -> bool:
    if type(leaf) is int:
        return -(2**63) <= leaf < 2**63
    if isinstance(leaf, float):  # 2.0 is the integer 2 in JSON
        return leaf.is_integer() and abs(leaf) <= EXACT
    if isinstance(leaf, str):
        return _DECIMAL.fullmatch(leaf) is not None and -(2**63) <= int(leaf) < 2**63
    return False


def _is_float_or_word(leaf: object) -> bool:
    return type(leaf) in (int, float) or (isinstance(leaf, str) and leaf in _NON_FINITE)


def _place(at: int, shape: Sequence[int]) -> list[int]:
    return [int(k) for k in np.unravel_index(at, tuple(shape))]


def _show(value: object) -> str:
    """A value of a JSON document as its writer would know it, cut to a readable length."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 1000:
        return "an integer of hundreds of digits"
    if isinstance(value, float) and math.isinf(value):
        return "a number beyond float64"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
