"""The dtypes of elements: how each is written as a number, loaded and stored."""

from __future__ import annotations

from typing import Any

from ..prelude import (
    f32,
    f64,
    i64,
    inline,
    load_bool,
    load_f32,
    load_f64,
    load_i64,
    select,
    store_bool,
    store_f32,
    store_f64,
    store_i64,
)

KINDS: dict[str, tuple[Any, Any, Any]] = {
    "float32": (f32, load_f32, store_f32),
    "float64": (f64, load_f64, store_f64),
    "int64": (i64, load_i64, store_i64),
    "bool": (bool, load_bool, store_bool),
}
"""Per dtype: the type of a value, loads and stores."""

BY_WIDTH = {1: KINDS["bool"], 4: KINDS["float32"], 8: KINDS["int64"]}
"""How elements of so many bytes are moved, whatever they are; a 0 of the type has no bit set."""


@inline
def add(a: Any, b: Any) -> Any:
    """The sum, for where an op is given as a function."""
    return a + b


@inline
def larger(a: Any, b: Any) -> Any:
    """The larger integer."""
    return select(b > a, b, a)


@inline
def smaller(a: Any, b: Any) -> Any:
    """The smaller integer."""
    return select(b < a, b, a)
