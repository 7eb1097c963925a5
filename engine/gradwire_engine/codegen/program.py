"""A compiled plan as data: kernels, calls and buffers. Nothing here imports Numba.

A *kernel* is Python source that defines ``kernel(frame, args, lo, hi, chunk)``. A *call* binds one
to operands and words and says how many iterations it has and in how many chunks they may run; every
chunk works on iterations ``lo`` to ``hi`` alone, and ``chunk`` (0, 1, ...) picks its scratch memory
and its slot for partial results. How many chunks there are is fixed when the plan is made, so the
result does not depend on how many threads happen to be free.

In a running plan ``frame`` is a table of buffer addresses (int64), ``args`` the call's own table:

    word 2k, 2k+1      operand k: its slot in the frame, and its offset in bytes
    the words after    sizes, strides (int64) and numbers (float64 bits), as the kernel expects
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..ir import ITEMSIZE, Type


@dataclass(frozen=True)
class Kernel:
    """Source text that defines ``kernel(frame, args, lo, hi, chunk)``; equal text, equal kernel.

    Attributes:
        text: A Python module. Sizes, strides and numbers are arguments, never in the text.
        title: What it computes, for people; not part of its identity.
        kin: Texts of kernels that the same op may be made of at other sizes, such as a batch's.
    """

    text: str
    title: str = ""
    kin: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Identifies the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """Where the elements of a value lie: a strided view of a buffer.

    Attributes:
        buffer: Number of the buffer.
        offset: Position of element (0, ..., 0), in elements.
        shape: Sizes per axis.
        strides: Steps per axis, in elements; 0 repeats, negative runs backwards.
        dtype: Dtype name.
    """

    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def type(self) -> Type:
        """The type of the value."""
        return Type(self.shape, self.dtype)

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie one after another, last axis fastest."""
        expected = dense_strides(self.shape)
        return all(
            size == 1 or stride == wanted
            for size, stride, wanted in zip(self.shape, self.strides, expected, strict=True)
        )

    @property
    def byte_offset(self) -> int:
        """`offset` in bytes."""
        return self.offset * ITEMSIZE[self.dtype]


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense array of this shape, in elements."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def dense(buffer: int, type: Type, offset: int = 0) -> Layout:
    """The layout of a value that fills a buffer."""
    return Layout(buffer, offset, type.shape, dense_strides(type.shape), type.dtype)


@dataclass(frozen=True)
class Buffer:
    """Memory that a plan reads or writes.

    Attributes:
        kind: ``input`` and ``output`` (index: which), ``const`` (array), ``temp`` (arena), and
            ``scratch``: what a call's threads have at hand while they work on it, some cache full.
        nbytes: Its size.
        index: Which input or output.
        array: The contents of a const.
    """

    kind: str
    nbytes: int
    index: int = 0
    array: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True)
class Operand:
    """A buffer as an operand of a call, from `offset` bytes on."""

    buffer: int
    offset: int = 0


@dataclass(frozen=True)
class Call:
    """One kernel applied to buffers.

    Attributes:
        kernel: What runs.
        operands: Words 2k and 2k+1 of the argument table are made from operand k.
        words: The words after them; floats travel as float64 bits.
        count: Number of iterations, split evenly among the chunks.
        chunks: How many parts may run at the same time.
        writes: Positions in `operands` of those written; all others are only read.
        reuse: Pairs (written, read) of operand positions that may share memory if the read one
            dies here: same size, and every element is read before it is written.
    """

    kernel: Kernel
    operands: tuple[Operand, ...]
    words: tuple[int | float, ...]
    count: int
    chunks: int
    writes: tuple[int, ...]
    reuse: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class HostCall:
    """An op that runs by its NumPy meaning, for want of a kernel."""

    op: Any
    operands: tuple[Layout, ...]
    result: Layout


@dataclass(frozen=True)
class Schedule:
    """Everything to be done, in order, before memory is assigned."""

    buffers: tuple[Buffer, ...]
    steps: tuple[Call | HostCall, ...]
    outputs: tuple[Type, ...]


def chunks_for(count: int, nanoseconds: float, threads: int) -> int:
    """How many chunks a call of `count` iterations and this much work in all is worth.

    Starting a parallel region costs about 2 us, so less than 15 us of work stays on one thread.
    """
    if nanoseconds < 15_000:
        return 1
    return max(1, min(count, threads, math.ceil(nanoseconds / 8_000)))
