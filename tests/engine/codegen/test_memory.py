"""The memory plan: nothing overlaps that lives together, and little is wasted."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gradwire_engine import Type
from gradwire_engine.codegen.memory import ALIGNMENT, MemoryPlan, plan_memory, touched
from gradwire_engine.codegen.program import Buffer, Call, Kernel, Operand, Schedule

from .handmade import chain

KERNEL = Kernel("def kernel(frame, args, lo, hi, chunk): ...\n")


def call(
    reads: list[int], write: int, reuse: tuple[tuple[int, int], ...] = (), offset: int = 0
) -> Call:
    """A call that reads whole buffers and writes one, its last operand."""
    operands = (*(Operand(n, offset) for n in reads), Operand(write))
    return Call(KERNEL, operands, (), 1, 1, (len(reads),), reuse)


def lives(schedule: Schedule) -> dict[int, tuple[int, int]]:
    """First and last step of every temporary."""
    found: dict[int, tuple[int, int]] = {}
    for k, step in enumerate(schedule.steps):
        for number in touched(step):
            if schedule.buffers[number].kind == "temp":
                found[number] = found.get(number, (k, k))[0], k
    return found


def check(schedule: Schedule, plan: MemoryPlan, shared: frozenset[tuple[int, int]]) -> None:
    """No two temporaries overlap while both live, but for the pairs that may at one step."""
    spans = lives(schedule)
    for a, (first_a, last_a) in spans.items():
        assert plan.offsets[a] % ALIGNMENT == 0
        assert (
            plan.homes[a] != a or plan.offsets[a] + schedule.buffers[a].nbytes <= plan.arena_bytes
        )
        for b, (first_b, last_b) in spans.items():
            if a == b or plan.homes[a] != a or plan.homes[b] != b:
                continue
            if first_a <= last_b and first_b <= last_a and (a, b) not in shared:
                low_a, low_b = plan.offsets[a], plan.offsets[b]
                high_a = low_a + schedule.buffers[a].nbytes
                high_b = low_b + schedule.buffers[b].nbytes
                assert high_a <= low_b or high_b <= low_a, (a, b)


@pytest.mark.parametrize("seed", range(20))
def test_what_lives_together_lies_apart(seed: int) -> None:
    draw = random.Random(seed)
    buffers = [Buffer("input", 4096)]
    steps: list[Call] = []
    shared = set()
    for _ in range(60):
        nbytes = draw.choice([4, 100, 4096, 4096, 70_000])
        buffers.append(Buffer("temp", nbytes))
        new = len(buffers) - 1
        reads = draw.sample(range(new), min(new, draw.randint(1, 3)))
        reuse = tuple((len(reads), k) for k in range(len(reads)) if draw.random() < 0.7)
        steps.append(call(reads, new, reuse))
        for _, k in reuse:
            shared |= {(new, reads[k]), (reads[k], new)}
    schedule = Schedule(tuple(buffers), tuple(steps), ())
    plan = plan_memory(schedule)
    check(schedule, plan, frozenset(shared))
    spans = lives(schedule)
    most = max(
        sum(
            -(-schedule.buffers[n].nbytes // ALIGNMENT) * ALIGNMENT
            for n, (first, last) in spans.items()
            if first <= k <= last
        )
        for k in range(len(steps))
    )
    assert plan.arena_bytes <= 1.1 * most


def test_a_chain_in_place_lives_in_its_output() -> None:
    plan = plan_memory(chain(1000, 5))
    assert plan.arena_bytes == 0
    assert plan.peak_bytes == 8000
    assert plan.homes[3:] == (2, 2, 2, 2)


def test_a_chain_that_ends_in_another_size_alternates_with_nothing() -> None:
    buffers = (Buffer("input", 800), *[Buffer("temp", 800)] * 3, Buffer("output", 8))
    steps = (
        call([0], 1, ((1, 0),)),
        call([1], 2, ((1, 0),)),
        call([2], 3, ((1, 0),)),
        call([3], 4),
    )
    plan = plan_memory(Schedule(buffers, steps, (Type((), "float64"),)))
    assert plan.arena_bytes == 832
    assert plan.offsets[1] == plan.offsets[2] == plan.offsets[3]
    assert plan.peak_bytes == 840


OVER = {
    "read again later": [call([1], 2, ((1, 0),)), call([1, 2], 3)],
    "read in another way": [call([1, 1], 2, ((2, 0),)), call([2], 3)],
    "read from elsewhere": [call([1], 2, ((1, 0),), offset=64), call([2], 3)],
    "not allowed": [call([1], 2), call([2], 3)],
    "of another size": [call([1], 4, ((1, 0),)), call([4], 3)],
    "written before": [call([0], 2), call([1], 2, ((1, 0),)), call([2], 3)],
}


@pytest.mark.parametrize("case", OVER)
def test_an_operand_is_not_overwritten_if_it_is(case: str) -> None:
    sizes = [800, 800, 800, 8, 1600]
    kinds = ["input", "temp", "temp", "output", "temp"]
    buffers = tuple(Buffer(kind, size) for kind, size in zip(kinds, sizes, strict=True))
    steps = (call([0], 1), *OVER[case])
    plan = plan_memory(Schedule(buffers, steps, (Type((), "float64"),)))
    assert plan.offsets[1] != plan.offsets[4 if case == "of another size" else 2]


def test_one_operand_is_overwritten_once() -> None:
    """Two results may not both take the place of one operand, nor one result that of two."""
    two = Call(KERNEL, (Operand(1), Operand(2), Operand(3)), (), 1, 1, (1, 2), ((1, 0), (2, 0)))
    buffers = (Buffer("input", 800), *[Buffer("temp", 800)] * 4, Buffer("output", 8))
    steps = (call([0], 1), two, call([2, 3], 4, ((2, 0), (2, 1))), call([4], 5))
    plan = plan_memory(Schedule(buffers, steps, (Type((), "float64"),)))
    assert plan.offsets[2] != plan.offsets[3]
    assert plan.arena_bytes == 2 * 832


def test_inputs_and_constants_are_never_overwritten() -> None:
    constant = Buffer("const", 800, array=np.ones(100))
    buffers = (Buffer("input", 800), constant, Buffer("temp", 800), Buffer("output", 800))
    steps = (call([0, 1], 2, ((2, 0), (2, 1))), call([2], 3, ((1, 0),)))
    plan = plan_memory(Schedule(buffers, steps, (Type((100,), "float64"),)))
    assert plan.homes == (0, 1, 3, 3)
    assert plan.const_bytes == 800


def test_scratch_memory_takes_gaps_and_counts_apart() -> None:
    buffers = (
        *(Buffer("input", 800), Buffer("temp", 1280), Buffer("temp", 640), Buffer("output", 8)),
        *(Buffer("scratch", 640), Buffer("scratch", 6400)),
    )
    for scratch, most in ((4, 0), (5, 6400)):
        steps = (call([0], 1), call([1], 2), call([2, scratch], 3))
        plan = plan_memory(Schedule(buffers, steps, (Type((), "float64"),)))
        assert (plan.arena_bytes, plan.peak_bytes) == (1920, 1928)
        assert (plan.scratch_bytes > 0) == (most > 0)
        assert plan.scratch_bytes <= most


def test_what_is_gone_in_time_lodges_in_an_output() -> None:
    buffers = (Buffer("input", 800), *[Buffer("temp", 800)] * 3, Buffer("output", 800))
    steps = (call([0], 1), call([1], 2), call([2], 3), call([2, 3], 4))
    plan = plan_memory(Schedule(buffers, steps, (Type((100,), "float64"),)))
    assert plan.homes == (0, 4, 2, 3, 4)  # the others are read while the output is written
    assert plan.arena_bytes == 2 * 832


def test_nothing_to_place() -> None:
    plan = plan_memory(Schedule((), (), ()))
    assert (plan.arena_bytes, plan.peak_bytes, plan.const_bytes) == (0, 0, 0)
