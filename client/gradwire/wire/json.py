"""JSON as the contract wants it: UTF-8, no bare NaN or Infinity, no key twice, integers exact.

orjson reads and writes it. What it would let pass is found by a look at what it has read: a key
that came twice, since then there are fewer keys than colons behind strings, and an integer of more
than 64 bits, since that has become a float. Such a body, and one that orjson refuses, is read again
by the standard parser, whose hooks name the fault, or which accepts it after all. A number beyond
float64 (`1e400`) parses to an infinity, which no sound body can hold otherwise; who reads the
number refuses it, as only it knows whether the place is a tensor.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import numpy as np
import orjson

from gradwire.wire.errors import WireError
from gradwire.wire.tensors import encode_tensor, tensor_document

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["dumps", "loads"]

_KEY: Final = re.compile(rb'"\s*:')
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(body: bytes | bytearray | memoryview) -> object:
    """The document that a body holds.

    Raises:
        WireError: `malformed_body`, saying where: not UTF-8, not JSON, an empty body, a bare NaN or
            Infinity, a key twice in one object, nesting deeper than the interpreter's stack, an
            integer of thousands of digits, a lone surrogate.
    """
    try:
        document: object = orjson.loads(body)
    except ValueError:
        return _strictly(bytes(body))
    keys = _count_keys(document)
    # In a string, too, a colon may follow a quote (an escaped one): then it is a second look.
    if keys is None or keys != len(_KEY.findall(body)):
        return _strictly(bytes(body))
    return document


def dumps(document: object) -> bytes:
    """The document as compact UTF-8; an array in it stands for its tensor document.

    Raises:
        ValueError: A float in it, outside arrays, is not finite.
    """
    _refuse_non_finite(document)
    try:
        return orjson.dumps(document, default=_tensor)
    except TypeError:  # an integer beyond 64 bits, a number of NumPy's, or nothing for JSON at all
        text = json.dumps(
            document,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
            default=lambda array: encode_tensor(_array(array)),
        )
        return text.encode("utf-8")


# -- what orjson leaves to be seen to --------------------------------------------------------------

_INT64: Final = 2.0**63
_LONG: Final = 64

_kind: Callable[[object], object] = type


def _count_keys(document: object) -> int | None:
    """How many members all objects have; None where some number may have been a longer integer."""
    count = 0
    rest: list[Any] = [document]
    while rest:
        node = rest.pop()
        kind = _kind(node)
        if kind is dict:
            count += len(node)
            items = node.values()
        elif kind is list:
            items = node
            if len(items) > _LONG and type(items[0]) in (int, float):
                try:
                    if min(items) > -_INT64 and max(items) < _INT64:
                        continue
                except TypeError:  # something else is among them
                    pass
        else:
            items = (node,)
        for item in items:
            kind = _kind(item)
            if kind is dict or kind is list:
                rest.append(item)
            elif kind is float and not -_INT64 < item < _INT64:
                return None
    return count


def _refuse_non_finite(document: object) -> None:
    """Raise `ValueError` for what orjson would write as null."""
    rest = [document]
    while rest:
        node = rest.pop()
        if isinstance(node, dict):
            rest.extend(cast("dict[str, object]", node).values())
        elif isinstance(node, list | tuple):
            rest.extend(cast("list[object]", node))
        elif isinstance(node, float) and not math.isfinite(node):
            raise ValueError(f"Out of range float values are not JSON compliant: {node!r}")


def _tensor(value: object) -> object:
    return tensor_document(_array(value))


def _array(value: object) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if isinstance(value, np.ndarray):
        return cast("np.ndarray[tuple[int, ...], np.dtype[np.generic]]", value)
    raise TypeError(f"a {type(value).__name__} is nothing that JSON has")


# -- the standard parser ---------------------------------------------------------------------------


def _strictly(raw: bytes) -> object:
    """What `loads` promises, at length: the document, or the fault."""
    if not raw.strip():
        raise _malformed("it is empty; a JSON document belongs there")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"it is not UTF-8 at byte {error.start}") from None
    try:
        document: object = _DECODER.decode(text)
        if _SURROGATE_ESCAPE.search(raw):  # half a pair parses, but no answer could carry it back
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise _malformed(f"it is not JSON at {place} ({error.msg.lower()})") from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise _malformed("a string holds half of a surrogate pair") from None
    except ValueError:
        raise _malformed("it holds an integer of too many digits") from None
    return document


def _malformed(reason: str) -> WireError:
    return WireError("malformed_body", "", reason)


def _refuse_constant(token: str) -> NoReturn:
    raise _malformed(f'it holds the bare token {token}; write the string "{token}"')


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _malformed(f"an object has the key {name[:100]!r} twice")
            seen.add(name)
    return members


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_distinct)
