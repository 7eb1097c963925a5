"""Calls that a lowering emitted, run as they are: no scheduling, no memory plan, no threads.

The chunks of a call run last to first, one after another, so that a chunk that leans on an earlier
one shows.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from gradwire_engine.codegen import compile, prelude
from gradwire_engine.codegen.emit import Emitter
from gradwire_engine.codegen.loader import Code
from gradwire_engine.codegen.lowering.move import lower_copy
from gradwire_engine.codegen.program import Buffer, Call, Kernel, Layout, dense_strides
from gradwire_engine.ir import Type

from ...laws.tiers import programs

Array = np.ndarray[Any, Any]


class Emitted:
    """An emitter, and memory for what it emits.

    Args:
        threads: How many chunks a large call should have.
    """

    def __init__(self, threads: int = 3) -> None:
        self.emit = Emitter(threads, lower_copy)
        self._memory: dict[int, Array] = {}

    def input(self, array: Array) -> Layout:
        """The layout of an array: strided as it is, in a buffer that holds what it is a view of."""
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        flat = np.ascontiguousarray(base).reshape(-1)
        assert flat.size == 0 or np.shares_memory(flat, base), "bases are dense"
        buffer = self._buffer(flat)
        offset = (array.ctypes.data - flat.ctypes.data) // array.itemsize
        strides = tuple(s // array.itemsize for s in array.strides)
        return Layout(buffer, offset, array.shape, strides, array.dtype.name)

    def output(
        self, type: Type, order: Sequence[int] | None = None, gaps: Sequence[int] = ()
    ) -> Layout:
        """A layout to write to; its memory is filled with 77 (bool: True).

        Args:
            type: Of the value.
            order: Its axes from slowest to fastest; by default as they are.
            gaps: How many times as long each axis is made in memory.
        """
        order = range(len(type.shape)) if order is None else order
        scales = tuple(gaps) or (1,) * len(type.shape)
        sizes = [type.shape[a] * scales[a] for a in order]
        steps = dict(zip(order, dense_strides(sizes), strict=True))
        strides = tuple(steps[a] * scales[a] for a in range(len(type.shape)))
        buffer = self._buffer(np.full(int(np.prod(sizes)), 77, type.dtype))
        return Layout(buffer, 0, type.shape, strides, type.dtype)

    def _buffer(self, memory: Array) -> int:
        self.emit.buffers.append(Buffer("input", memory.nbytes))
        self._memory[len(self.emit.buffers) - 1] = memory
        return len(self.emit.buffers) - 1

    def array(self, layout: Layout) -> Array:
        """What lies there."""
        memory = self._memory[layout.buffer].view(layout.dtype)
        strides = [s * memory.itemsize for s in layout.strides]
        start = memory[layout.offset :]
        return np.lib.stride_tricks.as_strided(start, layout.shape, strides)

    def memory(self, layout: Layout) -> Array:
        """All of the buffer that a layout is in."""
        return self._memory[layout.buffer]

    def run(self) -> None:
        """Run everything that was emitted."""
        for number, buffer in enumerate(self.emit.buffers):
            if buffer.array is not None:
                self._memory[number] = buffer.array.reshape(-1)
            elif buffer.kind in ("temp", "scratch"):
                self._memory[number] = np.full(-(-buffer.nbytes // 8), 77.0)
        slots = [self._memory[number].ctypes.data for number in range(len(self.emit.buffers))]
        frame = np.array([*slots, 0], np.int64)
        for call in self.emit.steps:
            assert isinstance(call, Call)
            words = [w for o in call.operands for w in (o.buffer, o.offset)]
            args = np.array([*words, *map(_bits, call.words)], np.int64)
            kernel = _kernel(call.kernel.text)
            for c in reversed(range(call.chunks)):
                lo, hi = c * call.count // call.chunks, (c + 1) * call.count // call.chunks
                with np.errstate(all="ignore"):
                    kernel(frame.ctypes.data, args.ctypes.data, lo, hi, c)


def _bits(word: float) -> int:
    if isinstance(word, int):
        return word
    return int(struct.unpack("q", struct.pack("d", word))[0])


@cache
def _kernel(text: str) -> Any:
    """The function that kernel source defines, compiled unless Numba's JIT is off."""
    if not prelude.JIT:
        return compile.define(text)
    (found,) = programs().compiler.request([Kernel(text)])
    address = Code(*found.result(300)).keep()
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(address)
