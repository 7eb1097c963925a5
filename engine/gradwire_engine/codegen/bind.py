"""From a schedule to something that runs: tables of words for the driver, and one call per run.

A `Native` program belongs to a process: its tables hold the addresses of loaded kernels and of
constants. Running it allocates the outputs, takes an arena, and calls the driver once for each
stretch of kernels; ops without a kernel run between the stretches by their NumPy meaning.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import errors
from .forks import forgets
from .memory import ALIGNMENT, aligned, plan_memory
from .program import Call, HostCall, Layout, Operand, Schedule
from .team import Team

Array = np.ndarray[Any, Any]
Drive = Callable[..., int]

SHORT_BYTES = 1 << 15
"""A serial program over no more memory than this runs without releasing the interpreter."""

SHORT_STEPS = 64

SOUND = 0x101
"""What the flags of an array must say for a kernel to read it: C-contiguous and aligned."""

GLANCE_SECONDS = 0.05
"""How often a long run or a long wait looks whether it should go on."""

IDLE_BYTES = 1 << 28
"""How much memory of arenas a process keeps between runs."""


def _data_word() -> int:
    """In which word of a NumPy array object the address of its elements is; 0: in none known."""
    probe = np.zeros(1)
    place = object.__basicsize__
    found = ctypes.c_ssize_t.from_address(id(probe) + place).value
    return place // 8 if found == probe.ctypes.data else 0


DATA_WORD = _data_word()


# -- arenas ----------------------------------------------------------------------------------------


class Arenas:
    """Memory for runs, kept between them: blocks by size, sizes in eighths of a power of two."""

    def __init__(self) -> None:
        self._idle: dict[int, list[tuple[Array, int]]] = {}
        self._bytes = 0
        self.after_fork()
        forgets(self)

    def after_fork(self) -> None:
        """Begin anew: nobody holds the lock."""
        self._lock = threading.Lock()

    @staticmethod
    def size_class(nbytes: int) -> int:
        """The size of the block that a run of `nbytes` gets."""
        step = max(1 << max(nbytes.bit_length() - 4, 0), 4096)
        return -(-nbytes // step) * step

    def take(self, size: int) -> tuple[Array, int]:
        """A block of a size class: its memory and an aligned address."""
        with self._lock:
            blocks = self._idle.get(size)
            if blocks:
                self._bytes -= size
                return blocks.pop()
        return aligned(size)

    def give(self, size: int, block: tuple[Array, int]) -> None:
        """Keep a block for the next run, if there is room."""
        with self._lock:
            if self._bytes + size <= IDLE_BYTES:
                self._bytes += size
                self._idle.setdefault(size, []).append(block)


ARENAS = Arenas()


# -- programs --------------------------------------------------------------------------------------


class Native:
    """A schedule bound to machine code. Safe to run in many threads at once.

    Args:
        schedule: What is done.
        kernels: The address of each kernel, by digest.
        drive: The built-in function that runs a program.
        team: The threads that help; None with Numba's JIT switched off.
        keep: Whatever must live as long as this, such as the kernels' machine code.

    Attributes:
        peak_bytes: Bytes of intermediate results and outputs: arena and outputs.
        needed_bytes: All bytes that a run allocates: those, and scratch memory of its kernels.
        const_bytes: Bytes of constants, which are resident.
    """

    def __init__(
        self,
        schedule: Schedule,
        kernels: Mapping[str, int],
        drive: Drive,
        team: Team | None,
        keep: object = None,
    ) -> None:
        plan = plan_memory(schedule)
        self.peak_bytes, self.const_bytes = plan.peak_bytes, plan.const_bytes
        self.needed_bytes = plan.peak_bytes + plan.scratch_bytes
        self._drive, self._keep = drive, keep
        self._pool = team.pool if team is not None else 0
        self._schedule, self._plan = schedule, plan
        buffers = schedule.buffers
        consts = [n for n, buffer in enumerate(buffers) if buffer.kind == "const"]
        inputs = {buffer.index: n for n, buffer in enumerate(buffers) if buffer.kind == "input"}
        outputs = {buffer.index: n for n, buffer in enumerate(buffers) if buffer.kind == "output"}
        self._input_count = max(inputs, default=-1) + 1
        slots = dict(zip(consts, range(1, len(consts) + 1), strict=True))
        first = len(consts) + 1
        slots |= {number: first + index for index, number in inputs.items()}
        first += self._input_count
        slots |= {number: first + index for index, number in outputs.items()}
        self._frame_bytes = -(-8 * (first + len(schedule.outputs)) // ALIGNMENT) * ALIGNMENT
        self._slots = slots
        self._outputs = [(type.shape, np.dtype(type.dtype)) for type in schedule.outputs]
        self._consts = [buffers[n].array for n in consts]
        steps = [step for step in schedule.steps if isinstance(step, Call)]
        chunks = max((step.chunks for step in steps), default=1)
        size = self.needed_bytes + sum(b.nbytes for b in buffers if b.kind in ("input", "const"))
        self._team = team if chunks > 1 else None
        short = chunks == 1 and size <= SHORT_BYTES and len(steps) <= SHORT_STEPS
        header = [len(consts), self._frame_bytes, chunks, int(short), DATA_WORD]
        arguments = [self._arguments(step) for step in steps]
        self._words = np.concatenate([np.zeros(0, np.int64), *arguments])
        place = self._words.ctypes.data
        table = header + [_address(array) for array in self._consts]
        for step, own in zip(steps, arguments, strict=True):
            table += [kernels[step.kernel.digest], place, step.count, step.chunks, 0]
            place += own.nbytes
        self._table = np.array(table, np.int64)
        self._program = self._table.ctypes.data
        self._segments = _segments(schedule.steps)
        self._count = len(steps)
        self._size = Arenas.size_class(self._frame_bytes + plan.arena_bytes + plan.scratch_bytes)

    def _arguments(self, step: Call) -> Array:
        """The argument table of a call."""
        found: list[int] = []
        for operand in step.operands:
            found += self._bind(operand)
        for word in step.words:
            found.append(int(word) if isinstance(word, int | np.integer) else _bits(word))
        return np.array(found, np.int64)

    def _bind(self, operand: Operand) -> tuple[int, int]:
        """The frame slot and the offset of an operand."""
        home = self._plan.homes[operand.buffer]
        return self._slots.get(home, 0), self._plan.offsets[operand.buffer] + operand.offset

    def run(
        self, arguments: Sequence[Array | None], deadline: tuple[float, float] | None = None
    ) -> list[Array]:
        """Run the program.

        Args:
            arguments: One array for each input, in order; None where no step reads it.
            deadline: The moment by `time.monotonic`, and the milliseconds as the caller said them.

        Returns:
            One new contiguous array for each output, in order.

        Raises:
            DeadlineExceeded: The deadline passed between two steps.
        """
        given = [
            array
            if type(array) is np.ndarray and array.flags.num & SOUND == SOUND
            else _sound(array)
            for array in arguments[: self._input_count]
        ]
        results = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        team = self._team
        if team is not None and not team.started:
            team.start()
        size = self._size
        block = ARENAS.take(size)
        try:
            program, pool, frame = self._program, self._pool, block[1]
            if deadline is None and self._segments is None:
                self._drive(program, pool, frame, 0, self._count, 0, *given, *results)
                return results
            self._drive(program, pool, frame, 0, 0, 0, *given, *results)
            for segment in self._segments or ((0, self._count),):
                if isinstance(segment, HostCall):
                    _check(deadline)
                    self._run_host(segment, given, results, block)
                    continue
                reached, last = segment
                while reached < last:
                    until = _check(deadline)
                    reached = self._drive(program, pool, frame, reached, last, until)
        finally:
            ARENAS.give(size, block)
        return results

    def _run_host(
        self,
        step: HostCall,
        given: Sequence[Array],
        results: Sequence[Array],
        block: tuple[Array, int],
    ) -> None:
        arena = block[0][block[1] - block[0].ctypes.data + self._frame_bytes :]

        def view(layout: Layout) -> Array:
            home = self._plan.homes[layout.buffer]
            buffer = self._schedule.buffers[home]
            memory = {"input": given, "output": results}.get(buffer.kind)
            whole = memory[buffer.index] if memory is not None else buffer.array
            return _view(layout, arena[self._plan.offsets[home] :] if whole is None else whole)

        with np.errstate(all="ignore"):
            np.copyto(view(step.result), step.op.numpy(*(view(o) for o in step.operands)))


def _check(deadline: tuple[float, float] | None) -> int:
    """When the driver is to stop and let us look at the clock, in nanoseconds; 0: never.

    Raises:
        DeadlineExceeded: The deadline has passed.
    """
    if deadline is None:
        return 0
    now = time.monotonic()
    if now > deadline[0]:
        raise errors.DeadlineExceeded(deadline_ms=deadline[1])
    left = min(deadline[0] - now, GLANCE_SECONDS)
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(left * 1e9)


def _view(layout: Layout, memory: Array) -> Array:
    """The elements of a layout in the memory of its buffer."""
    dtype = np.dtype(layout.dtype)
    if 0 in layout.shape:
        return np.empty(layout.shape, dtype)
    strides = [dtype.itemsize * stride for stride in layout.strides]
    return np.ndarray(layout.shape, dtype, memory, layout.byte_offset, strides)


def _segments(steps: Sequence[Call | HostCall]) -> tuple[HostCall | tuple[int, int], ...] | None:
    """NumPy ops, and ranges of calls between them; None if there are only calls."""
    if all(isinstance(step, Call) for step in steps):
        return None
    found: list[HostCall | tuple[int, int]] = []
    first = last = 0
    for step in steps:
        if isinstance(step, Call):
            last += 1
            continue
        if last > first:
            found.append((first, last))
        found.append(step)
        first = last
    if last > first:
        found.append((first, last))
    return tuple(found)


def _sound(array: Array | None) -> Array:
    """An array that kernels can read: contiguous, aligned, of NumPy's own class."""
    if array is None:
        return _NOTHING
    return np.require(np.asarray(array), requirements=("C_CONTIGUOUS", "ALIGNED"))


_NOTHING = np.empty(0)


def _address(array: Array | None) -> int:
    assert array is not None  # a const has contents
    return int(array.ctypes.data)


def _bits(number: float) -> int:
    return int(struct.unpack("q", struct.pack("d", number))[0])
