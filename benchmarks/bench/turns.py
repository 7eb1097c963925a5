"""Timing inside one process: a block of runs, how busy the cores were with others, the fastest way.

A block begins with untimed runs, since the caches and the cores were somebody else's before it.
The previous answer is dropped before each run, so that every run allocates its outputs anew and no
two sets of them are alive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Thunk = Callable[[], Any]

WARM_SECONDS = 0.004
MAX_RUNS = 2000
SLOW_SECONDS = 0.1
_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Block:
    """Timed runs in a row.

    Attributes:
        seconds: Of each run.
        wall: Seconds that the block took, warm-up included.
        others: CPU seconds that others (processes, or the host: steal) took of our cores meanwhile.
    """

    seconds: list[float]
    wall: float
    others: float


@dataclass(frozen=True)
class _Clock:
    wall: float
    busy: float
    own: float


def _clock() -> _Clock:
    """Now, what our cores did up to now, and what this process and its ended children did."""
    names = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    busy = 0.0
    with open("/proc/stat") as stat:
        for line in stat:
            name, *fields = line.split()
            if name in names:
                user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
                busy += (user + nice + system + irq + softirq + steal) * _TICK
    times = os.times()
    return _Clock(time.perf_counter(), busy, times.user + times.system)


def block(thunk: Thunk, runs: int, seconds: float) -> tuple[Block, Any]:
    """At least `runs` timed runs, more of quick ones to fill `seconds`; and the last answer."""
    before = _clock()
    ready = before.wall + WARM_SECONDS
    thunk()
    started = time.perf_counter()
    thunk()
    once = time.perf_counter() - started
    while time.perf_counter() < ready:
        thunk()
    count = max(runs, min(MAX_RUNS, int(seconds / max(once, 1e-7))))
    times: list[float] = []
    result = None
    for _ in range(count):
        result = None
        started = time.perf_counter()
        result = thunk()
        times.append(time.perf_counter() - started)
    after = _clock()
    others = (after.busy - before.busy) - (after.own - before.own)
    return Block(times, after.wall - before.wall, max(0.0, others)), result


def median(values: list[float]) -> float:
    """The middle value (the lower of two)."""
    return sorted(values)[(len(values) - 1) // 2]


@dataclass(frozen=True)
class Way:
    """The way that a peer does a case.

    Attributes:
        thunk: One run.
        label: How it is written.
        seconds: About how long a run takes.
        failed: Other ways that do not work, each with its reason.
    """

    thunk: Thunk
    label: str
    seconds: float
    failed: dict[str, str]


def _estimate(thunk: Thunk) -> float:
    """About how many seconds a run takes, once it has been made; one run of a slow one will do."""
    started = time.perf_counter()
    thunk()
    once = time.perf_counter() - started
    if once > SLOW_SECONDS:
        return once
    timed, _ = block(thunk, 5, 0.03)
    return median(timed.seconds)


def fastest(makers: list[tuple[str, Callable[[], Thunk]]]) -> Way | dict[str, str]:
    """Make and warm up each way, keep the fastest; when none works, the reasons by name."""
    failed: dict[str, str] = {}
    found: list[tuple[float, str, Thunk]] = []
    for label, make in makers:
        try:
            thunk = make()
            thunk()
            found.append((_estimate(thunk), label, thunk))
        except Exception as error:  # whatever a peer throws at us is an entry of the table
            failed[label] = f"{type(error).__name__}: {str(error).strip() or '?'}"[:300]
    if not found:
        return failed
    seconds, label, thunk = min(found, key=lambda way: way[0])
    return Way(thunk, label, seconds, failed)
