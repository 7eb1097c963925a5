"""The tensors of a run: compared with what is expected of them, and laid out as arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import errors
from .ir import Type
from .request import Expected

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Argument:
    """Where an input of an executable graph comes from.

    Attributes:
        path: The tensor's path; None: never given.
        hidden: The name of the residual that it is instead, if there is one.
        default: What makes its value if it is not given; None: then no step reads it.
        type: The type of that value.
    """

    path: str | None
    hidden: str
    default: Callable[..., Array] | None
    type: Type


def gather(
    wanted: Sequence[Argument], tensors: Mapping[str, Array], residuals: Mapping[str, Array]
) -> list[Array | None]:
    """One array for each input of an executable graph, defaults filled in."""
    found: list[Array | None] = []
    for argument in wanted:
        given = residuals.get(argument.hidden) if residuals else None
        if given is None and argument.path is not None:
            given = tensors.get(argument.path)
        if given is None and argument.default is not None:
            given = argument.default(argument.type.shape, argument.type.dtype)
        found.append(given)
    return found


def in_native_order(array: Array) -> Array:
    """The same numbers in the byte order of this machine."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_tensors(
    expects: Mapping[str, Expected], needed: Sequence[str], tensors: Mapping[str, Array]
) -> int | None:
    """Compare tensors with what is expected of them.

    Returns:
        The length of the mapped axis, if there is one.

    Raises:
        MissingInput, or a shape or dtype mismatch: The first thing that does not fit.
    """
    size: int | None = None
    for path, array in tensors.items():
        expected = expects[path]
        wanted = tuple(size if s is None and size is not None else s for s in expected.shape)
        fits = len(array.shape) == len(wanted) and all(
            w is None or w == s for w, s in zip(wanted, array.shape, strict=True)
        )
        if array.dtype != expected.dtype and array.dtype.name != expected.dtype:
            raise _mismatch(path, "dtype", expected, expected.dtype, array.dtype.name)
        if not fits:
            shown = ["n" if w is None else w for w in wanted]
            raise _mismatch(path, "shape", expected, shown, list(array.shape))
        if None in expected.shape:
            size = array.shape[expected.shape.index(None)]
    missing = [path.split("inputs/", 1)[1] for path in needed if path not in tensors]
    if missing:
        raise errors.MissingInput(input=missing[0], missing=missing)
    return size


def _mismatch(
    path: str, what: str, wanted: Expected, expected: Any, actual: Any
) -> errors.EngineError:
    """The error for a tensor that is sound but not of the declared type."""
    head, _, name = path.rpartition("inputs/") if "inputs/" in path else path.partition("/")
    if head == "cotangents":
        cls = {"shape": errors.CotangentShapeMismatch, "dtype": errors.CotangentDtypeMismatch}
        return cls[what](output=name, expected=expected, actual=actual, source=wanted.source)
    if head == "tangents":
        kinds = {"shape": errors.TangentShapeMismatch, "dtype": errors.TangentDtypeMismatch}
        return kinds[what](input=name, expected=expected, actual=actual)
    given = {"shape": errors.InputShapeMismatch, "dtype": errors.InputDtypeMismatch}
    return given[what](input=name, expected=expected, actual=actual)
