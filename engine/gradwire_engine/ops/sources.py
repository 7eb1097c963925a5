"""Ops without differentiable operands: constants, counting numbers and pseudo-random numbers.

Random numbers are counter-based (SplitMix64, Steele, Lea and Flood 2014): the number at flat index
i is a function of seed, stream and i alone, so every run, worker and thread count gives the same
bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import errors
from ..ir import GraphBuilder, Type, Value
from . import checks
from .attributes import Array as ArrayField
from .attributes import Axis, FloatDtype, Literal, Naturals, NumericDtype, Seed
from .base import Array, Composite, Op
from .shape import BroadcastTo


class Const(Op, inputs=(), graphm="const"):
    """The tensor ``value``; its derivative is zero."""

    value: ArrayField

    def typing(self) -> Type:
        array = self.value.array
        return Type(tuple(array.shape), array.dtype.name)

    def numpy(self) -> Array:
        return self.value.array


def literal(builder: GraphBuilder, array: Any, dtype: str | None = None) -> Value:
    """Append a constant array."""
    with np.errstate(over="ignore"):  # beyond float32 lies its infinity
        return builder.apply(Const(Literal(np.asarray(array, dtype=dtype))))


def constant(like: Value | Type, number: float, builder: GraphBuilder | None = None) -> Value:
    """`number` everywhere, in the shape and dtype of `like`."""
    target = like.type if isinstance(like, Value) else like
    owner = like.builder if isinstance(like, Value) else builder
    if owner is None:
        raise ValueError("a Type alone does not say which builder to append to")
    scalar = literal(owner, number, target.dtype)
    return BroadcastTo(target.shape)(scalar) if target.shape else scalar


def known_number(value: Value) -> float | None:
    """The number that a value is everywhere, where it is a constant scalar or its broadcast."""
    nodes, inputs = value.builder.nodes, len(value.builder.inputs)
    id = value.id
    while id >= inputs and isinstance(nodes[id - inputs].op, BroadcastTo):
        (id,) = nodes[id - inputs].inputs
    op = nodes[id - inputs].op if id >= inputs else None
    if isinstance(op, Const) and op.value.array.size == 1:
        return float(op.value.array.item())
    return None


def zeros_like(like: Value) -> Value:
    """Zeros in the shape and dtype of `like`."""
    return constant(like, 0.0)


def ones_like(like: Value) -> Value:
    """Ones in the shape and dtype of `like`."""
    return constant(like, 1.0)


def zeros(ct: Value, like: Type) -> Value:
    """Zeros of type `like` in the builder of `ct`."""
    return constant(like, 0.0, ct.builder)


class Iota(Op, inputs=()):
    """Counting numbers 0, 1, 2 ... along ``axis`` of ``shape``, repeated along the others."""

    shape: Naturals
    axis: Axis = 0
    dtype: NumericDtype = "int64"

    def check(self) -> None:
        checks.axis(self, "axis", self.axis, len(self.shape))

    def typing(self) -> Type:
        return Type(self.shape, self.dtype)

    def numpy(self) -> Array:
        if 0 in self.shape:  # the counted axis may be longer than memory all the same
            return np.zeros(self.shape, self.dtype)
        axis = self.axis % len(self.shape)
        spaced = tuple(size if a == axis else 1 for a, size in enumerate(self.shape))
        count = np.arange(self.shape[axis], dtype=self.dtype)
        return np.broadcast_to(count.reshape(spaced), self.shape)


class Random(Op):
    """Base of the random ops: numbers in ``shape`` drawn for a seed and a stream.

    The seed is an attribute, or an int64 operand of any shape, each element of which draws numbers
    of its own: these then have shape ``seed.shape + shape``.
    """

    shape: Naturals
    seed: Seed | None = None
    stream: Seed = 0

    def drawn(self, seed: Type | None) -> tuple[int, ...]:
        """The shape of the numbers, once it is checked that there is exactly one seed."""
        if seed is None and self.seed is None:
            reason = "a seed is required, as attribute or as operand"
            raise errors.MissingAttribute(op=self.name, attribute="seed", reason=reason)
        if seed is None:
            return self.shape
        if self.seed is not None:
            raise self.invalid("seed", "the seed is given as operand too")
        checks.dtypes(self, ("int64",), seed=seed)
        return (*seed.shape, *self.shape)


class RandUniform(Random, inputs=("seed?",), nondiff=("seed",), graphm="randUniform"):
    """Pseudo-random numbers, uniform in [0, 1): the same bits on every run, worker and machine.

    ``seed`` and ``stream`` choose the sequence. A run can choose it too if ``seed`` is an operand
    instead: int64, read as uint64, of any shape, each element giving numbers of its own; the result
    then has shape ``seed.shape + shape``. The derivative is zero.
    """

    dtype: FloatDtype = "float32"

    def typing(self, seed: Type | None = None) -> Type:
        return Type(self.drawn(seed), self.dtype)

    def numpy(self, seed: Array | None = None) -> Array:
        shape = self.shape if seed is None else (*seed.shape, *self.shape)
        seeds = np.array([self.seed], dtype=np.uint64) if seed is None else seed.astype(np.uint64)
        keys = split_mix(seeds.reshape(-1, 1) + np.uint64(self.stream))
        count = np.arange(math.prod(self.shape), dtype=np.uint64)
        return uniform(split_mix(keys + count), self.dtype).reshape(shape)

    def vmap(self, size: int, mapped: tuple[bool, ...], seed: Value) -> Value:
        return self(seed)

    def workspace(self, seed: Type | None = None) -> int:
        return 24 * math.prod(self.drawn(seed))


def split_mix(x: Array) -> Array:
    """One step of SplitMix64 from each state in `x` (uint64, wrapping; overwrites nothing)."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(bits: Array, dtype: str) -> Array:
    """The low 32 bits of each uint64 as a fraction of 2^32; float32 rounds toward zero."""
    fractions: Array = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64)
    fractions *= 2.0**-32
    if dtype == "float64":
        return fractions
    # Clearing what float32's significand lacks (52 - 23 bits) rounds toward zero: 1 is not reached.
    whole = fractions.view(np.uint64)
    whole &= np.uint64(~((1 << 29) - 1) & 0xFFFFFFFFFFFFFFFF)
    return fractions.astype(np.float32)


class BernoulliMask(Random, Composite, inputs=("keep_prob", "seed?"), graphm="bernoulliMask"):
    """1 where ``keep_prob`` > u, else 0, for the numbers u that `rand_uniform` gives.

    A stop-gradient, ``keep_prob`` included; kept entries are not scaled up. NaN keeps nothing.
    ``seed`` is an attribute or an int64 operand, as for `rand_uniform`.
    """

    def typing(self, keep_prob: Type, seed: Type | None = None) -> Type:
        shape = self.drawn(seed)
        checks.floats(self, keep_prob=keep_prob)
        if keep_prob.rank:
            raise self.mismatch("keep_prob", (), keep_prob)
        return keep_prob.with_shape(shape)

    def expand(self, keep_prob: Value, seed: Value | None = None) -> Value:
        from .elementwise import Cast, detach
        from .logic import greater

        # In float32, u is rounded toward zero, to the greatest float32 that is not above it: so a
        # float32 keep_prob exceeds the one exactly when it exceeds the other.
        random = RandUniform(self.shape, self.seed, self.stream, keep_prob.dtype)
        u = keep_prob.builder.apply(random) if seed is None else random(seed)
        kept = greater(BroadcastTo(u.shape)(detach(keep_prob)), u)
        return Cast(keep_prob.dtype)(kept)
