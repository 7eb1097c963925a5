"""Where every temporary of a plan lies: one arena, shared by buffers that never live together.

A buffer lives from the first step that touches it to the last. A step may write its result over an
operand that it is the last to read (`Call.reuse`); then both are one *tenant* of the arena, or the
operand takes the memory of an output that is written there. Tenants that are gone before an output
is written may lodge in it. The others are placed from the largest to the smallest, scratch memory
after everything else, each into the tightest gap between those that live at the same time
(Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020, greedy by
size, here with the best fit). That is quadratic in tenants, but a nanosecond each.
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
        arena_bytes: Size of the arena as far as intermediate results need it.
        scratch_bytes: What scratch memory needs beyond that, where the arena has no gap for it.
        peak_bytes: Bytes of intermediate results and outputs: arena and outputs.
        const_bytes: Bytes of constants, which are there once for all runs.
    """

    homes: tuple[int, ...]
    offsets: tuple[int, ...]
    arena_bytes: int
    scratch_bytes: int
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
    scratch: bool = False


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
    places, arena, whole = _place(inside)
    for tenant, place in zip(inside, places, strict=True):
        for number in tenant.buffers:
            offsets[number] = place
    outputs = sum(type.nbytes for type in schedule.outputs)
    consts = sum(buffer.nbytes for buffer in buffers if buffer.kind == "const")
    return MemoryPlan(tuple(homes), tuple(offsets), arena, whole - arena, arena + outputs, consts)


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
        if buffer.kind in ("temp", "scratch") and number in first:
            tenants[number] = _Tenant([number], buffer.nbytes, first[number], last[number])
            tenants[number].scratch = buffer.kind == "scratch"
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
    found = list({id(tenant): tenant for tenant in tenants.values()}.values())
    _lodge(
        found,
        {n: first[n] for n, b in enumerate(buffers) if b.kind == "output" and n in first},
        buffers,
    )
    return found


def _lodge(tenants: Sequence[_Tenant], written: dict[int, int], buffers: Sequence[Buffer]) -> None:
    """Put tenants into outputs that are not written yet while these live, the largest first.

    Args:
        tenants: Those of the arena and of outputs.
        written: For each output that a step touches, the first that does.
        buffers: For their sizes.
    """
    for tenant in tenants:
        if tenant.output is not None:
            written[tenant.output] = min(written[tenant.output], tenant.first)
    by_size = sorted(tenants, key=lambda tenant: -tenant.nbytes)
    for output in sorted(written, key=lambda number: -buffers[number].nbytes):
        guests: list[_Tenant] = []
        for tenant in by_size:
            fits = tenant.nbytes <= buffers[output].nbytes and tenant.last < written[output]
            free = all(g.last < tenant.first or tenant.last < g.first for g in guests)
            if fits and free and tenant.output is None and not tenant.scratch:
                guests.append(tenant)
                tenant.output = output


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


def _place(tenants: Sequence[_Tenant]) -> tuple[list[int], int, int]:
    """Offsets of tenants in the arena, its size without scratch memory, and with it."""
    keys = [(tenant.scratch, -tenant.nbytes, tenant.first) for tenant in tenants]
    order = sorted(range(len(tenants)), key=keys.__getitem__)
    count = len(tenants)
    starts, ends = np.empty(count, np.int64), np.empty(count, np.int64)  # of lives, in steps
    lows, highs = np.empty(count, np.int64), np.empty(count, np.int64)  # of places, in bytes
    result = [0] * count
    arena = whole = 0
    for placed, k in enumerate(order):
        tenant = tenants[k]
        size = max(-(-tenant.nbytes // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
        together = (starts[:placed] <= tenant.last) & (ends[:placed] >= tenant.first)
        place = _gap(lows[:placed][together], highs[:placed][together], size)
        starts[placed], ends[placed] = tenant.first, tenant.last
        lows[placed], highs[placed] = place, place + size
        whole = max(whole, place + size)
        arena = arena if tenant.scratch else whole
        result[k] = place
    return result, arena, whole


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
