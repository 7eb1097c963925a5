"""JSON as the contract wants it: UTF-8, no bare NaN or Infinity, no key twice, integers exact.

The standard parser does the work; its hooks refuse what it would let pass. They cost nothing per
number: one call an object and one a non-finite token. A number beyond float64 (`1e400`) parses to
an infinity, which no sound body can hold otherwise; who reads the number refuses it, as only it
knows whether the place is a tensor.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from gradwire.wire.errors import WireError

__all__ = ["dumps", "loads"]

_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(body: bytes | bytearray | memoryview) -> object:
    """The document that a body holds.

    Raises:
        WireError: `malformed_body`, saying where: not UTF-8, not JSON, an empty body, a bare NaN or
            Infinity, a key twice in one object, nesting deeper than the interpreter's stack, an
            integer of thousands of digits, a lone surrogate.
    """
    raw = bytes(body)
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


def dumps(document: object) -> bytes:
    """The document as compact UTF-8.

    Raises:
        ValueError: A float in it is not finite (`tensors.encode_tensor` writes those as strings).
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


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
