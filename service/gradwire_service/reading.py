"""Reading a parsed document strictly: one small function a type, each of which knows its path.

What has the wrong type, is missing, or is not named by the contract is `MalformedBody`, with the
path of the place. An optional field that is null counts as absent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from .errors import MalformedBody

__all__ = [
    "fields",
    "flag",
    "items",
    "join",
    "members",
    "number",
    "optional",
    "required",
    "sizes_of",
    "text",
    "texts",
    "whole",
    "wrong",
]

T = TypeVar("T")


def join(path: str, name: str) -> str:
    """The path of a member, cut to a length that an error can carry."""
    return (f"{path}/{name}" if path else name)[:300]


def wrong(value: object, path: str, wanted: str) -> MalformedBody:
    """The error for a value of the wrong type."""
    kinds: list[tuple[type, str]] = [
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a number"),
        (str, "a string"),
        (list, "a list"),
        (dict, "an object"),
        (np.ndarray, "a tensor"),
    ]
    given = next((word for kind, word in kinds if isinstance(value, kind)), "null")
    return MalformedBody(path=path[:300], reason=f"it should be {wanted}, not {given}")


def members(value: object, path: str) -> dict[str, Any]:
    """An object, whatever its keys."""
    if isinstance(value, dict):
        return value
    raise wrong(value, path, "an object")


def fields(value: object, path: str, known: Collection[str]) -> dict[str, Any]:
    """An object that may have the known keys only, without those that are null."""
    found = members(value, path)
    for name in found:
        if name not in known:
            reason = f"the field is unknown; the fields here are {', '.join(known)}"
            raise MalformedBody(path=join(path, name), reason=reason)
    return {name: item for name, item in found.items() if item is not None}


def required(found: Mapping[str, Any], name: str, path: str, read: Callable[[object, str], T]) -> T:
    """A field that has to be there."""
    value = found.get(name)
    if value is None:
        raise MalformedBody(path=join(path, name), reason="the field is required")
    return read(value, join(path, name))


def optional(
    found: Mapping[str, Any], name: str, path: str, read: Callable[[object, str], T]
) -> T | None:
    """A field that may be absent, or null."""
    value = found.get(name)
    return None if value is None else read(value, join(path, name))


def text(value: object, path: str) -> str:
    """A string."""
    if isinstance(value, str):
        return value
    raise wrong(value, path, "a string")


def whole(value: object, path: str) -> int:
    """An integer; 2.0 and true are none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise wrong(value, path, "an integer")


def number(value: object, path: str) -> float:
    """A number that float64 holds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= 1e300:
            return value
        raise MalformedBody(path=path, reason="the number is too large")
    raise wrong(value, path, "a number")


def flag(value: object, path: str) -> bool:
    """A boolean."""
    if isinstance(value, bool):
        return value
    raise wrong(value, path, "a boolean")


def items(value: object, path: str) -> Sequence[Any]:
    """A list."""
    if isinstance(value, list):
        return value
    raise wrong(value, path, "a list")


def texts(value: object, path: str) -> tuple[str, ...]:
    """A list of strings."""
    return tuple(text(item, f"{path}/{k}") for k, item in enumerate(items(value, path)))


def sizes_of(value: object, path: str) -> tuple[int, ...]:
    """A list of integers; whether they make a shape is judged elsewhere."""
    return tuple(whole(item, f"{path}/{k}") for k, item in enumerate(items(value, path)))
