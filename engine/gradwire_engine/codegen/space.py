"""Iteration spaces: how the axes of differently shaped values line up in one loop nest.

The elements of a space of N are numbered in row-major order. A *boundary* is a number of elements
that some axis steps by: the shape [4, 6] has the boundaries 1, 6 and 24. Consecutive boundaries
delimit *atoms*, the axes of the finest common factorization of all shapes seen: beside [4, 6] the
shape [12, 2] adds the boundary 2, and then the atoms are 4 x 3 x 2. A set of axes is a set of
*intervals* between boundaries, which stays true when atoms are split.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

Intervals = tuple[tuple[int, int], ...]
"""Sorted, disjoint, merged: ((1, 6),) are the last axes that hold 6 elements together."""


def boundaries(shape: Sequence[int]) -> list[int]:
    """What the axes of a shape step by, and the size in all; ascending from 1."""
    found, step = [1], 1
    for size in reversed(shape):
        step *= size
        if step != found[-1]:
            found.append(step)
    return found


def intervals(shape: Sequence[int], axes: Iterable[int]) -> Intervals:
    """The intervals of some axes of a shape."""
    chosen = set(axes)
    found: list[tuple[int, int]] = []
    step = 1
    for axis in reversed(range(len(shape))):
        low, step = step, step * shape[axis]
        if axis not in chosen or shape[axis] == 1:
            continue
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], step)
        else:
            found.append((low, step))
    return tuple(found)


def complement(size: int, inner: Intervals) -> Intervals:
    """The intervals between 1 and `size` that are not in `inner`."""
    found: list[tuple[int, int]] = []
    at = 1
    for low, high in inner:
        if low > at:
            found.append((at, low))
        at = high
    if size > at:
        found.append((at, size))
    return tuple(found)


def count(chosen: Intervals) -> int:
    """How many elements some intervals hold."""
    return prod(high // low for low, high in chosen)


@dataclass
class Space:
    """The atoms of a space of `size` elements, refined as shapes are fitted to it."""

    size: int
    bounds: list[int] = field(default_factory=list)

    def fit(self, found: Iterable[int]) -> bool:
        """Refine by more boundaries; False (and nothing changes) where they do not divide."""
        bounds = list(self.bounds) or [1, *([self.size] if self.size > 1 else [])]
        for bound in found:
            if bound not in bounds:
                insort(bounds, bound)
        if any(b % a for a, b in pairwise(bounds)):
            return False
        self.bounds = bounds
        return True

    def atoms(self, within: Intervals | None = None) -> list[tuple[int, int]]:
        """(low, high) boundaries of each atom, slowest first; only those within some intervals."""
        pairs = list(pairwise(self.bounds))
        if within is not None:
            pairs = [p for p in pairs if any(a <= p[0] and p[1] <= b for a, b in within)]
        return pairs[::-1]

    def lift(self, found: Iterable[int], kept: Intervals) -> list[int]:
        """Boundaries of the space of `kept` alone, as boundaries of the whole space."""
        result: list[int] = []
        for bound in found:
            done = 1
            for low, high in kept:
                run = high // low
                if bound <= done * run:
                    if bound > done:
                        result.append(low * (bound // done) if bound % done == 0 else 0)
                    break
                done *= run
        return result


def strides_over(
    shape: Sequence[int], strides: Sequence[int], atoms: Sequence[tuple[int, int]]
) -> list[int] | None:
    """Steps of a strided value along each atom; None where its axes do not line up with them.

    Args:
        shape: Its sizes, which hold as many elements as the atoms.
        strides: Its steps.
        atoms: As `Space.atoms` gives them.
    """
    steps = [0] * len(atoms)
    at = len(atoms) - 1
    for axis in reversed(range(len(shape))):
        size, step = shape[axis], strides[axis]
        while size > 1:
            if at < 0:
                return None
            run = atoms[at][1] // atoms[at][0]
            if size % run:
                return None
            steps[at] = step
            size //= run
            step *= run
            at -= 1
    return steps if at < 0 else None
