"""NumPy's basic indexing as ops: which `slice`, `flip` and `reshape` an index amounts to."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index as as_index
from typing import TYPE_CHECKING, SupportsIndex, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import EllipsisType

__all__ = ["IndexKey", "IndexPlan", "plan_index"]

IndexItem: TypeAlias = "SupportsIndex | slice | EllipsisType | None"
IndexKey: TypeAlias = "IndexItem | tuple[IndexItem, ...]"


@dataclass(frozen=True)
class IndexPlan:
    """What to do, in this order; a step that is None changes nothing.

    Attributes:
        cut: Starts, limits and strides, one per axis.
        flip: Axes to reverse.
        shape: The shape to give the result.
        sliced: The shape before that.
    """

    cut: tuple[list[int], list[int], list[int]] | None
    flip: list[int] | None
    shape: tuple[int, ...] | None
    sliced: tuple[int, ...]


def plan_index(shape: Sequence[int], key: IndexKey) -> IndexPlan:
    """The plan for `key` on a value of that shape.

    Raises:
        IndexError: Too many indices, two ellipses, or an integer outside its axis.
        TypeError: An index that is no integer, slice, None or Ellipsis.
        ValueError: A slice step of 0.
    """
    items = list(key) if isinstance(key, tuple) else [key]
    for item in items:
        _check(item)
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > len(shape):
        raise IndexError(f"{used} indices for a value of rank {len(shape)}")
    ellipses = [k for k, item in enumerate(items) if item is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index has one ellipsis (...) at most")
    at = ellipses[0] if ellipses else len(items)
    rest = [slice(None)] * (len(shape) - used)
    items = [*items[:at], *rest, *items[at + 1 :]]

    starts: list[int] = []
    limits: list[int] = []
    strides: list[int] = []
    flips: list[int] = []
    sliced: list[int] = []
    final: list[int] = []
    for item in items:
        if item is None:
            final.append(1)
            continue
        axis = len(starts)
        size = shape[axis]
        if isinstance(item, slice):
            span = range(*item.indices(size))
            if span and span.step < 0:
                flips.append(axis)
                span = span[::-1]
            elif not span:
                span = range(0)
            count = len(span)
            starts.append(span.start)
            limits.append(span[-1] + 1 if span else span.start)
            strides.append(span.step if count > 1 else 1)
            final.append(count)
        else:
            place = as_index(cast("SupportsIndex", item))
            if not -size <= place < size:
                raise IndexError(f"index {place} is outside axis {axis} of size {size}")
            place %= size
            starts.append(place)
            limits.append(place + 1)
            strides.append(1)
            count = 1
        sliced.append(count)
    whole = sliced == list(shape)
    return IndexPlan(
        cut=None if whole else (starts, limits, strides),
        flip=flips or None,
        shape=None if final == sliced else tuple(final),
        sliced=tuple(sliced),
    )


def _check(item: object) -> None:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return
    if not isinstance(item, bool) and isinstance(item, SupportsIndex):
        try:
            as_index(item)
        except TypeError:  # an array of several integers
            pass
        else:
            return
    raise TypeError(
        f"an index is an integer, a slice, None or ..., not {type(item).__name__}; "
        "for indices in an array see take() and where()"
    )
