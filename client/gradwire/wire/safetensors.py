"""The binary form of a body: one safetensors file, read and written without touching the elements.

Layout: eight bytes of header length (little-endian), a JSON header `{name: {"dtype", "shape",
"data_offsets"}}`, then the bytes of the tensors without gaps. Tensors are named by their path in
the JSON form of the message; `__metadata__` holds the JSON of everything else under the key
`request` or `response`. Reading is strict, since the other side may be anyone: every byte of the
file must belong to exactly one tensor, and a tensor's bytes must be as many as its dtype and shape
say.
"""

from __future__ import annotations

import math
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np

from gradwire.wire import json as wire_json
from gradwire.wire.errors import WireError
from gradwire.wire.tensors import DTYPES, MAX_RANK, Array

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MEDIA_TYPE", "Key", "pack", "unpack"]

MEDIA_TYPE: Final = "application/x-safetensors"

Key = Literal["request", "response"]

_FORMAT_NAMES: Final = MappingProxyType(
    {"float32": "F32", "float64": "F64", "int64": "I64", "bool": "BOOL"}
)
_LAYOUTS: Final = MappingProxyType({code: DTYPES[name] for name, code in _FORMAT_NAMES.items()})
_LENGTH: Final = struct.Struct("<Q")
_MAX_HEADER: Final = 100_000_000  # the bound of the format itself
_METADATA: Final = "__metadata__"


def pack(tensors: Mapping[str, Array], document: object, key: Key) -> list[memoryview | bytes]:
    """The file as chunks to send one after the other; the tensors' memory is not copied.

    The header lists tensors in the given order; their bytes are laid out by falling item size, so
    that each lies aligned.

    Args:
        tensors: Arrays by path, of the dtypes of the contract; only one that is not C-contiguous is
            copied.
        document: Everything else of the message; None or an empty object is left out.
        key: `request` or `response`.

    Raises:
        TypeError: An array's dtype is not one of the contract.
    """
    solid: dict[str, Array] = {}
    for name, array in tensors.items():
        if array.dtype.name not in _FORMAT_NAMES:
            known = ", ".join(_FORMAT_NAMES)
            raise TypeError(f"{name} has dtype {array.dtype.name}; a tensor is one of {known}")
        solid[name] = np.ascontiguousarray(array, DTYPES[array.dtype.name])
    begin: dict[str, int] = {}
    end = 0
    laid_out = sorted(solid, key=lambda name: -solid[name].itemsize)
    for name in laid_out:
        begin[name], end = end, end + solid[name].nbytes

    header: dict[str, object] = {}
    if document is not None and document != {}:
        header[_METADATA] = {key: wire_json.dumps(document).decode("utf-8")}
    for name, array in tensors.items():
        header[name] = {
            "dtype": _FORMAT_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin[name], begin[name] + array.nbytes],
        }
    text = wire_json.dumps(header)
    text += b" " * (-len(text) % 8)
    chunks: list[memoryview | bytes] = [_LENGTH.pack(len(text)) + text]
    full = (solid[name] for name in laid_out if solid[name].nbytes)
    chunks.extend(array.reshape(-1).view(np.uint8).data for array in full)
    return chunks


def unpack(
    buffer: bytes | bytearray | memoryview, key: Key
) -> tuple[dict[str, Array], object | None]:
    """The tensors of a file by name, in the header's order, and the document beside them.

    Arrays are views into `buffer`, so read-only where it is, and keep it alive; one whose bytes are
    not aligned for its dtype is a copy.

    Returns:
        The arrays, and the parsed metadata `key`, or None where there is none.

    Raises:
        WireError: `malformed_body` for a faulty frame, header or metadata, `unknown_dtype` for a
            dtype outside the contract, `malformed_tensor` for a bool that is neither 0 nor 1.
    """
    view = memoryview(buffer).cast("B")
    if len(view) < _LENGTH.size:
        raise _malformed(
            "", f"a safetensors file begins with 8 bytes of length, it has {len(view)}"
        )
    length: int = _LENGTH.unpack_from(view)[0]
    if length > _MAX_HEADER:
        raise _malformed("", f"its header claims {length} bytes, more than {_MAX_HEADER}")
    start = _LENGTH.size + length
    if start > len(view):
        raise _malformed("", f"its header claims {length} bytes, {len(view) - 8} are there")
    header = _read_header(view[_LENGTH.size : start])
    document = _read_metadata(header.pop(_METADATA, None), key)

    tensors: dict[str, Array] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        layout, shape, begin, end = _read_entry(name, entry, len(view) - start)
        spans.append((begin, end, name))
        tensors[name] = _view(view, layout, shape, start + begin, name)
    _check_cover(spans, len(view) - start)
    return tensors, document


def _malformed(path: str, reason: str) -> WireError:
    return WireError("malformed_body", path, reason)


def _read_header(raw: memoryview) -> dict[str, object]:
    if bytes(raw[:1]) != b"{":
        raise _malformed("", "its safetensors header is no JSON object")
    try:
        header = wire_json.loads(raw)
    except WireError as error:
        raise _malformed("", f"in its safetensors header, {error.reason}") from None
    return cast("dict[str, object]", header)


def _read_metadata(metadata: object, key: Key) -> object | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise _malformed(_METADATA, "it is no object of strings")
    for name, text in cast("dict[str, object]", metadata).items():
        if not isinstance(text, str):
            raise _malformed(_METADATA, f"the value of {name[:100]!r} is no string")
        if name not in (key, "format"):  # "format" is what common writers of such files add
            raise _malformed(_METADATA, f"it has an unknown key {name[:100]!r}; {key!r} is known")
    text = cast("dict[str, str]", metadata).get(key)
    if text is None:
        return None
    try:
        return wire_json.loads(text.encode("utf-8"))
    except WireError as error:
        raise _malformed(f"{_METADATA}/{key}", error.reason) from None


def _read_entry(
    name: str, entry: object, available: int
) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    path = name[:300]
    if not isinstance(entry, dict):
        raise _malformed(path, "its safetensors entry is no object")
    fields = cast("dict[str, object]", entry)
    if fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed(
            path, "its safetensors entry has other keys than dtype, shape, data_offsets"
        )
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str):
        raise _malformed(path, "its dtype is no string")
    if code not in _LAYOUTS:
        reason = f"it is one of {', '.join(_LAYOUTS)}"
        raise WireError("unknown_dtype", f"{path}/dtype", reason, code[:100])
    sizes = _naturals(shape)
    if sizes is None or len(sizes) > MAX_RANK:
        raise _malformed(path, f"its shape is no list of up to {MAX_RANK} sizes")
    span = _naturals(offsets)
    if span is None or len(span) != 2 or not span[0] <= span[1] <= available:
        raise _malformed(path, f"its data_offsets are no span within {available} bytes")
    layout = _LAYOUTS[code]
    wanted = math.prod(sizes) * layout.itemsize
    if span[1] - span[0] != wanted:
        given = span[1] - span[0]
        raise _malformed(path, f"{code} {list(sizes)} takes {wanted} bytes, its span has {given}")
    return layout, sizes, span[0], span[1]


def _naturals(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    if not all(type(item) is int and 0 <= item < 2**63 for item in items):
        return None
    return tuple(cast("list[int]", items))


def _view(
    view: memoryview, layout: np.dtype[Any], shape: tuple[int, ...], offset: int, name: str
) -> Array:
    count = math.prod(shape)
    try:
        flat: Array = np.frombuffer(view, layout, count, offset) if count else np.empty(0, layout)
        array = flat.reshape(shape)
    except ValueError:  # sizes beside a zero whose product NumPy cannot hold
        raise _malformed(name[:300], f"the sizes {list(shape)} are too large") from None
    if layout.kind == "b" and count and flat.view(np.uint8).max() > 1:
        raise WireError("malformed_tensor", name[:300], "a bool is a byte of 0 or 1")
    return array if array.flags.aligned else array.copy()


def _check_cover(spans: list[tuple[int, int, str]], available: int) -> None:
    """Every byte belongs to one tensor: sorted by place, each begins where the last ended."""
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            fault = "overlap those of another tensor" if begin < at else "leave a hole before them"
            raise _malformed(name[:300], f"its bytes {fault}")
        at = end
    if at != available:
        raise _malformed("", f"{available - at} bytes at its end belong to no tensor")
