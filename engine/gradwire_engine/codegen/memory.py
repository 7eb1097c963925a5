"""Where every temporary of a plan lies: one arena, shared by buffers that never live together.

A buffer lives from the first step that touches it to the last. A step may write its result over an
operand that it is the last to read (`Call.reuse`); then both are one *tenant* of the arena, or the
operand takes the memory of an output that is written there. Tenants are placed from the largest to
the smallest, each into the tightest gap between those that live at the same time (Pisarchyk and
Lee, "Efficient memory management for deep neural net inference", 2020, greedy by size, here with
the best fit). That is quadratic in tenants, but a nanosecond each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .program import Buffer, Call, HostCall, Schedule

ALIGNMENT = 64
"""Every buffer begins at a multiple of this many bytes: a cache line, the widest vector."""


@dataclass(frozen=True)
class MemoryPlan:
    """Places of a schedule's buffers.

    Attributes:
        homes: For each buffer the one whose memory it has: itself, or the output it is part of.
        offsets: For each buffer its place in the arena in bytes; 0 if it has memory of its own.
        arena_bytes: Size of the arena.
        peak_bytes: Bytes that a run allocates: arena and outputs.
        const_bytes: Bytes of constants, which are there once for all runs.
    """

    homes: tuple[int, ...]
    offsets: tuple[int, ...]
    arena_bytes: int
    peak_bytes: int
    const_bytes: int


@dataclass
class _Tenant:
    """Buffers that share memory, and when it is in use."""

    buffers: list[int]
    nbytes: int
    first: int
    last: int
    output: int | None = None


def plan_memory(schedule: Schedule) -> MemoryPlan:
    """Assign memory to all temporaries of a schedule."""
    buffers = schedule.buffers
    tenants = _tenants(buffers, schedule.steps)
    homes = list(range(len(buffers)))
    offsets = [0] * len(buffers)
    inside = [tenant for tenant in tenants if tenant.output is None]
    for tenant in tenants:
        for number in tenant.buffers:
            homes[number] = number if tenant.output is None else tenant.output
    places, arena = _place(inside)
    for tenant, place in zip(inside, places, strict=True):
        for number in tenant.buffers:
            offsets[number] = place
    outputs = sum(type.nbytes for type in schedule.outputs)
    consts = sum(buffer.nbytes for buffer in buffers if buffer.kind == "const")
    return MemoryPlan(tuple(homes), tuple(offsets), arena, arena + outputs, consts)


def touched(step: Call | HostCall) -> tuple[int, ...]:
    """The buffers that a step reads or writes."""
    if isinstance(step, Call):
        return tuple(operand.buffer for operand in step.operands)
    return (*(layout.buffer for layout in step.operands), step.result.buffer)


def _tenants(buffers: Sequence[Buffer], steps: Sequence[Call | HostCall]) -> list[_Tenant]:
    """The temporaries that are used, those that can be written over each other as one."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, step in enumerate(steps):
        for number in touched(step):
            first.setdefault(number, k)
            last[number] = k
    tenants: dict[int, _Tenant] = {}
    for number, buffer in enumerate(buffers):
        if buffer.kind == "temp" and number in first:
            tenants[number] = _Tenant([number], buffer.nbytes, first[number], last[number])
    for k, step in enumerate(steps):
        taken: set[int] = set()
        for written, read in _overwrites(step):
            source = tenants.get(read)
            fits = buffers[written].nbytes == buffers[read].nbytes and first[written] == k
            if not fits or source is None or source.last != k or source.output is not None:
                continue
            if {written, read} & taken:
                continue
            taken |= {written, read}
            if buffers[written].kind == "output":
                source.output = written
            elif written in tenants:
                source.buffers.append(written)
                source.last = last[written]
                tenants[written] = source
    return list({id(tenant): tenant for tenant in tenants.values()}.values())


def _overwrites(step: Call | HostCall) -> Iterator[tuple[int, int]]:
    """Buffers that a step may write over buffers that it reads: pairs (written, read).

    What is read must be read in no other way by this step, and what is written, written in one go.
    """
    if not isinstance(step, Call):
        return
    for written, read in step.reuse:
        target, source = step.operands[written], step.operands[read]
        writes = [operand for operand in step.operands if operand.buffer == target.buffer]
        reads = [k for k, operand in enumerate(step.operands) if operand.buffer == source.buffer]
        alike = all(step.operands[k] == source and (written, k) in step.reuse for k in reads)
        if len(writes) == 1 and alike and target.offset == source.offset:
            yield target.buffer, source.buffer


def _place(tenants: Sequence[_Tenant]) -> tuple[list[int], int]:
    """Offsets of tenants in the arena, and its size."""
    order = sorted(range(len(tenants)), key=lambda k: (-tenants[k].nbytes, tenants[k].first))
    count = len(tenants)
    starts, ends = np.empty(count, np.int64), np.empty(count, np.int64)  # of lives, in steps
    lows, highs = np.empty(count, np.int64), np.empty(count, np.int64)  # of places, in bytes
    result = [0] * count
    arena = 0
    for placed, k in enumerate(order):
        tenant = tenants[k]
        size = max(-(-tenant.nbytes // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
        together = (starts[:placed] <= tenant.last) & (ends[:placed] >= tenant.first)
        place = _gap(lows[:placed][together], highs[:placed][together], size)
        starts[placed], ends[placed] = tenant.first, tenant.last
        lows[placed], highs[placed] = place, place + size
        arena = max(arena, place + size)
        result[k] = place
    return result, arena


def _gap(lows: np.ndarray[Any, Any], highs: np.ndarray[Any, Any], size: int) -> int:
    """Where the tightest gap of at least `size` begins among intervals; else the end of all."""
    if lows.size == 0:
        return 0
    order = np.argsort(lows, kind="stable")
    ends = np.concatenate(([0], np.maximum.accumulate(highs[order])))
    gaps = lows[order] - ends[:-1]
    fitting = np.flatnonzero(gaps >= size)
    if fitting.size == 0:
        return int(ends[-1])
    return int(ends[fitting[np.argmin(gaps[fitting])]])


def aligned(nbytes: int) -> tuple[np.ndarray[Any, Any], int]:
    """Memory of at least `nbytes` bytes: an array of bytes, and the first aligned address in it."""
    memory = np.empty(nbytes + 2 * ALIGNMENT, np.uint8)
    return memory, -(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT
