"""Schedules made by hand, for tests of what runs them."""

from __future__ import annotations

from collections.abc import Sequence

from gradwire_engine import Type
from gradwire_engine.codegen.program import Buffer, Call, Kernel, Operand, Schedule

AXPY = Kernel(
    """\
from gradwire_engine.codegen.prelude import *


def kernel(frame, args, lo, hi, chunk):
    x = operand(frame, args, 0)
    y = operand(frame, args, 1)
    out = operand(frame, args, 2)
    c = real(args, 6)
    for i in range(lo, hi):
        store_f64(out, i, load_f64(x, i, 0) + c * load_f64(y, i, 1), 0)
""",
    "axpy",
)

SPIN = Kernel(
    """\
from gradwire_engine.codegen.prelude import *


def kernel(frame, args, lo, hi, chunk):
    out = operand(frame, args, 0)
    total = load_f64(out, 0, 0)
    for i in range(lo, hi):
        total = exact_step(total)
    store_f64(out, 0, total, 0)


@exact
def exact_step(x):
    return x * 0.999999 + 1e-6
""",
    "spin",
)


def chain(length: int, steps: int, chunks: int = 1, c: float = 0.5) -> Schedule:
    """``x + steps * c * y`` of two float64 vectors, a temporary after each step but the last."""
    nbytes = 8 * length
    buffers = [Buffer("input", nbytes, 0), Buffer("input", nbytes, 1), Buffer("output", nbytes)]
    calls = []
    source = 0
    for k in range(steps):
        target = 2
        if k < steps - 1:
            buffers.append(Buffer("temp", nbytes))
            target = len(buffers) - 1
        operands = (Operand(source), Operand(1), Operand(target))
        calls.append(Call(AXPY, operands, (c,), length, chunks, (2,), ((2, 0),)))
        source = target
    return Schedule(tuple(buffers), tuple(calls), (Type((length,), "float64"),))


def waste(rounds: Sequence[int]) -> Schedule:
    """Serial steps that each take `rounds` dependent multiplications, a few nanoseconds each."""
    buffers = (Buffer("output", 8),)
    calls = tuple(Call(SPIN, (Operand(0),), (), n, 1, (0,)) for n in rounds)
    return Schedule(buffers, calls, (Type((1,), "float64"),))
