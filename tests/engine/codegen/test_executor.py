"""Compiled programs in a process: memory, threads, deadlines, and the two tiers of the engine."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Engine, Entry, Graph, RunSpec, Type, errors
from gradwire_engine.codegen import bind
from gradwire_engine.codegen.bind import Native
from gradwire_engine.codegen.program import (
    Buffer,
    Call,
    HostCall,
    Kernel,
    Layout,
    Operand,
    Schedule,
)
from gradwire_engine.codegen.programs import Programs, compiler_for, jit_is_off
from gradwire_engine.ops.linalg import DotGeneral
from gradwire_engine.runtime import Executable

from ..support import grow, inputs
from .handmade import AXPY, chain, waste

PROGRAMS = Programs(compiler_for(), threads=3)
MATMUL = DotGeneral(((1,), (0,)))
RNG = np.random.default_rng(3)
SIZE = 60 if jit_is_off() else 200_000
ROUNDS = 2_000 if jit_is_off() else 10_000_000


def native(schedule: Schedule) -> Native:
    """The program of a schedule."""
    upgrade = PROGRAMS.request(lambda: schedule)
    assert upgrade.wait(240)
    assert upgrade.native is not None, upgrade.reason
    return upgrade.native


# -- one program -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_steps_in_order_chunks_in_any(steps: int, chunks: int) -> None:
    x, y = RNG.normal(size=(2, SIZE))
    program = native(chain(SIZE, steps, chunks))
    expected = x.copy()
    for _ in range(steps):
        expected += 0.5 * y
    for _ in range(20):
        (result,) = program.run([x, y])
        np.testing.assert_allclose(result, expected, rtol=1e-14)
        assert result.flags.c_contiguous
        assert result.flags.owndata


def test_inputs_may_lie_anyhow() -> None:
    program = native(chain(10, 1))
    wide = RNG.normal(size=20)
    frozen = RNG.normal(size=10)
    frozen.flags.writeable = False
    odd = np.frombuffer(b"\0" + frozen.tobytes(), np.uint8)[1:].view(np.float64)
    assert not odd.flags.aligned
    for x in (wide[::2], wide[:10][::-1], odd, frozen, wide[:10].view(np.memmap)):
        before = x.copy()
        np.testing.assert_allclose(program.run([x, frozen])[0], before + 0.5 * frozen)
        np.testing.assert_array_equal(x, before)


def test_an_input_that_nothing_reads_may_be_left_out() -> None:
    buffers = (Buffer("input", 80, 0), Buffer("input", 80, 1), Buffer("output", 80))
    step = Call(AXPY, (Operand(1), Operand(1), Operand(2)), (1.0,), 10, 1, (2,))
    program = native(Schedule(buffers, (step,), (Type((10,), "float64"),)))
    x = RNG.normal(size=10)
    np.testing.assert_allclose(program.run([None, x])[0], 2 * x)
    np.testing.assert_allclose(program.run([None, x, None, x])[0], 2 * x)  # nor these two


def test_constants_offsets_and_several_outputs() -> None:
    constant = np.arange(30.0)
    buffers = (
        Buffer("output", 80, 1),
        Buffer("const", 240, array=constant),
        Buffer("output", 80, 0),
        Buffer("temp", 240),
    )
    steps = (
        Call(AXPY, (Operand(1, 160), Operand(1, 80), Operand(0)), (2.0,), 10, 1, (2,)),
        Call(AXPY, (Operand(1), Operand(1), Operand(3, 160)), (1.0,), 10, 1, (2,)),
        Call(AXPY, (Operand(3, 160), Operand(1), Operand(2)), (0.0,), 10, 1, (2,)),
    )
    program = native(Schedule(buffers, steps, (Type((10,), "float64"), Type((5, 2), "float64"))))
    first, second = program.run([])
    np.testing.assert_array_equal(first, 2 * constant[:10])
    np.testing.assert_array_equal(second.reshape(-1), constant[20:] + 2 * constant[10:20])


SCRATCH = Kernel(
    """\
from gradwire_engine.codegen.prelude import *


def kernel(frame, args, lo, hi, chunk):
    x = operand(frame, args, 0)
    parts = operand(frame, args, 1) + 64 * chunk
    total = 0.0
    for i in range(lo, hi):
        total += load_f64(x, i, 0)
    store_f64(parts, 0, total, 1)
    store_i64(parts, 1, hi - lo, 1)
""",
    "parts of a sum",
)


def test_every_chunk_has_its_part() -> None:
    chunks = 7
    buffers = (Buffer("input", 8 * SIZE), Buffer("output", 64 * chunks))
    step = Call(SCRATCH, (Operand(0), Operand(1)), (), SIZE, chunks, (1,))
    program = native(Schedule(buffers, (step,), (Type((chunks, 8), "float64"),)))
    x = RNG.normal(size=SIZE)
    (parts,) = program.run([x])
    assert int(parts[:, 1].copy().view(np.int64).sum()) == SIZE
    ends = [c * SIZE // chunks for c in range(chunks + 1)]
    expected = [x[a:b].sum() for a, b in pairwise(ends)]
    np.testing.assert_allclose(parts[:, 0], expected, rtol=1e-9, atol=1e-9)


def test_numpy_ops_between_kernels() -> None:
    """x + y/2, transposed into a matrix product with a constant, and then axpy again."""
    constant = np.asfortranarray(RNG.normal(size=(4, 4)))
    held = np.ascontiguousarray(constant)
    buffers = (
        Buffer("input", 128, 0),
        Buffer("input", 128, 1),
        Buffer("temp", 128),
        Buffer("const", 128, array=held),
        Buffer("temp", 128),
        Buffer("output", 128),
    )
    matmul = HostCall(
        MATMUL,
        (Layout(2, 0, (4, 4), (1, 4), "float64"), Layout(3, 12, (4, 4), (-4, 1), "float64")),
        Layout(4, 0, (4, 4), (1, 4), "float64"),
    )
    steps = (
        Call(AXPY, (Operand(0), Operand(1), Operand(2)), (0.5,), 16, 1, (2,), ((2, 0),)),
        matmul,
        Call(AXPY, (Operand(4), Operand(1), Operand(5)), (3.0,), 16, 2, (2,), ((2, 0),)),
    )
    program = native(Schedule(buffers, steps, (Type((4, 4), "float64"),)))
    x, y = RNG.normal(size=(2, 4, 4))
    expected = ((x + 0.5 * y).T @ constant[::-1]).T + 3 * y
    for deadline in (None, (time.monotonic() + 60, 60_000.0)):
        np.testing.assert_allclose(program.run([x, y], deadline)[0], expected)


def test_only_numpy_ops_and_nothing_at_all() -> None:
    buffers = (Buffer("input", 32), Buffer("output", 32))
    square = Layout(0, 0, (2, 2), (2, 1), "float64")
    step = HostCall(MATMUL, (square, square), Layout(1, 0, (2, 2), (2, 1), "float64"))
    program = native(Schedule(buffers, (step,), (Type((2, 2), "float64"),)))
    x = RNG.normal(size=(2, 2))
    np.testing.assert_allclose(program.run([x])[0], x @ x)
    empty = native(Schedule((Buffer("output", 0),), (), (Type((0, 3)),)))
    assert empty.run([])[0].shape == (0, 3)


# -- deadlines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [False, True])
def test_the_deadline_is_checked_between_steps(host: bool) -> None:
    schedule = waste([ROUNDS] * 50)
    if host:
        square = Layout(0, 0, (1, 1), (1, 1), "float64")
        step = HostCall(MATMUL, (square, square), square)
        steps = (*schedule.steps[:25], step, *schedule.steps[25:])
        schedule = Schedule(schedule.buffers, steps, schedule.outputs)
    program = native(schedule)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        program.run([], (time.monotonic() + 0.02, 20.0))
    assert caught.value.deadline_ms == 20.0
    with pytest.raises(errors.DeadlineExceeded):
        program.run([], (time.monotonic() - 1, 0.0))


def test_a_distant_deadline_changes_nothing() -> None:
    program = native(waste([ROUNDS // 4] * 12))  # longer than a glance at the clock takes to come
    program.run([], (math.inf, math.inf))
    program.run([], (time.monotonic() + 1000, 1e6))


class _Whim(float):
    """A moment that lies in the past as soon as somebody says so."""

    past = False

    def __lt__(self, now: float) -> bool:
        return self.past


def test_a_run_may_be_abandoned() -> None:
    moment = _Whim(math.inf)
    program = native(waste([ROUNDS] * (10**4)))
    timer = threading.Timer(0.2, lambda: setattr(moment, "past", True))
    timer.start()
    with pytest.raises(errors.DeadlineExceeded):
        program.run([], (moment, math.inf))


# -- threads ---------------------------------------------------------------------------------------


def test_threads_run_different_programs_at_once() -> None:
    """Serial and parallel ones, with and without temporaries, more than there are processors."""
    cases = []
    for k in range(8):
        length = SIZE // (k + 1)
        x, y = RNG.normal(size=(2, length))
        expected = x.copy()
        for _ in range(k + 2):
            expected += 0.5 * y
        cases.append((native(chain(length, k + 2, 1 + k % 4)), x, y, expected))
    until = time.monotonic() + 3
    faults: list[BaseException] = []
    runs = [0] * 8

    def work(k: int) -> None:
        program, x, y, expected = cases[k]
        try:
            while time.monotonic() < until or runs[k] < 3:
                np.testing.assert_allclose(program.run([x, y])[0], expected, rtol=1e-13)
                runs[k] += 1
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert min(runs) >= 3


@pytest.mark.skipif(
    jit_is_off() or sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="helpers are placed on Linux, where there is more than one processor",
)
def test_a_helper_wakes_on_another_processor_than_its_caller() -> None:
    known = set(threading.enumerate())
    programs = Programs(compiler_for(), threads=5)  # nobody else has a team of so many
    upgrade = programs.request(lambda: chain(SIZE, 2, 5))
    assert upgrade.wait(240)
    assert upgrade.native is not None
    x = np.ones(SIZE)
    allowed = os.sched_getaffinity(0)
    places: list[set[int]] = []
    for _ in range(200):
        upgrade.native.run([x, x])
        time.sleep(0.01)  # in which they fall asleep
        begun = set(threading.enumerate()) - known
        helpers = [thread for thread in begun if thread.name.startswith("gradwire-kernels")]
        places = [os.sched_getaffinity(thread.native_id or 0) for thread in helpers]
        if len(places) == 4 and all(len(allowed - place) == 1 for place in places):
            break
    assert [len(allowed - place) for place in places] == [1] * 4
    assert all(place < allowed for place in places)


def test_idle_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    arenas = bind.Arenas()
    monkeypatch.setattr(bind, "IDLE_BYTES", 3 * 4096)
    blocks = [arenas.take(4096) for _ in range(5)]
    for block in blocks:
        arenas.give(4096, block)
    again = [arenas.take(4096)[1] for _ in range(5)]
    assert len(set(again) & {address for _, address in blocks}) == 3
    for nbytes in (1, 4096, 4097, 10**6, 10**9 + 1):
        assert nbytes <= bind.Arenas.size_class(nbytes) <= max(nbytes * 1.13, nbytes + 4096)


FORK = """
import os, sys
import numpy as np
sys.path.insert(0, {root!r})
from tests.engine.codegen.test_executor import chain, native, SIZE
x = np.ones(SIZE)
first = native(chain(SIZE, 3, 3))
first.run([x, x])
child = os.fork()
if child == 0:
    again = first.run([x, x])[0]
    other = native(chain(SIZE, 2, 3, c=1.0)).run([x, x])[0]
    os._exit(0 if again[0] == 2.5 and other[-1] == 3.0 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or int(first.run([x, x])[0][0] != 2.5))
"""


def test_a_forked_process_goes_on(pytestconfig: pytest.Config) -> None:
    script = FORK.format(root=str(pytestconfig.rootpath))
    assert subprocess.run([sys.executable, "-c", script], timeout=250).returncode == 0


# -- two tiers -------------------------------------------------------------------------------------


def model() -> Graph:
    """sum(tanh(x * y)) and tanh(x * y)."""
    return grow(
        inputs(x=(50,), y=(50,)),
        Entry("mul", (0, 1)),
        Entry("tanh", (2,), name="h"),
        Entry("sum", (3,), name="s"),
        outputs={"s": 4, "h": 3},
    )


X, Y = RNG.normal(size=(2, 50))
GIVEN = {"inputs/x": X, "inputs/y": Y}


def spec(**options: Any) -> RunSpec:
    return RunSpec(inputs=("x", "y"), outputs=("s", "h"), **options)


def check(results: Any) -> None:
    h = np.tanh(X * Y)
    np.testing.assert_allclose(results["outputs/h"], h, rtol=1e-12)
    np.testing.assert_allclose(results["outputs/s"], h.sum(), rtol=1e-12)


def test_compiled_waits_and_says_so() -> None:
    result = Engine().prepare(model(), spec(tier="compiled")).execute(GIVEN)
    assert result.tier == "compiled"
    check(result.results)
    vjp = spec(mode="vjp", cotangents=("s",), tier="compiled")
    pulled = Engine().prepare(model(), vjp).execute({**GIVEN, "cotangents/s": np.array(2.0)})
    expected = 2 * (1 - np.tanh(X * Y) ** 2) * Y
    np.testing.assert_allclose(pulled.results["gradients/x"], expected, rtol=1e-11)


def test_a_program_is_swapped_in_while_it_is_used() -> None:
    prepared = Engine().prepare(model(), spec())
    seen: set[str] = set()
    until = time.monotonic() + 120
    stop = threading.Event()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                result = prepared.execute(GIVEN)
                check(result.results)
                seen.add(result.tier)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    wanted = {"interpreted"} if jit_is_off() else {"interpreted", "compiled"}
    while seen < wanted and not faults and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert seen == wanted


def test_interpreted_compiles_nothing_and_so_does_an_engine_that_is_told_to() -> None:
    prepared = Engine().prepare(model(), spec(tier="interpreted"))
    assert prepared.execute(GIVEN).tier == "interpreted"
    assert prepared._ready[None].executable._upgrade is None
    engine = Engine(compile=False)
    assert engine.prepare(model(), spec()).execute(GIVEN).tier == "interpreted"
    with pytest.raises(errors.CompileFailed):
        engine.prepare(model(), spec(tier="compiled")).execute(GIVEN)


def test_looking_for_nan_is_interpreted() -> None:
    prepared = Engine().prepare(model(), spec(tier="compiled", nan_policy="error"))
    assert prepared.execute(GIVEN).tier == "interpreted"
    with pytest.raises(errors.NonFinite):
        prepared.execute({**GIVEN, "inputs/x": np.full(50, np.nan)})


def test_each_tier_is_admitted_by_its_own_plan() -> None:
    """NumPy needs a temporary for x * y, the compiled program none."""
    graph = grow(inputs(x=(50,), y=(50,)), Entry("mul", (0, 1)), Entry("tanh", (2,)))
    request = RunSpec(inputs=("x", "y"), tier="compiled")
    generous = Engine().prepare(graph, request)
    assert generous.peak_bytes() < 800
    tight = Engine(memory_limit=700)
    tight.prepare(graph, request).execute(GIVEN)
    with pytest.raises(errors.MemoryLimit):
        tight.prepare(graph, RunSpec(inputs=("x", "y"))).execute(GIVEN)
    with pytest.raises(errors.MemoryLimit) as caught:
        Engine(memory_limit=399).prepare(graph, request).execute(GIVEN)
    assert caught.value.limit == 399


def test_a_deadline_while_it_waits_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["gradwire_engine.runtime.executor"]
    real = module.schedule

    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return real(*arguments)

    monkeypatch.setattr(module, "schedule", slow)
    prepared = Engine().prepare(model(), spec(tier="compiled", deadline_ms=50.0))
    with pytest.raises(errors.DeadlineExceeded):
        prepared.execute(GIVEN)


def test_a_plan_that_cannot_be_scheduled_stays_interpreted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("no such plan")

    monkeypatch.setattr(sys.modules["gradwire_engine.runtime.executor"], "schedule", fail)
    prepared = Engine().prepare(model(), spec(tier="compiled"))
    with pytest.raises(errors.CompileFailed, match="no such plan"):
        prepared.execute(GIVEN)
    auto = Engine().prepare(model(), spec())
    for _ in range(3):
        result = auto.execute(GIVEN)
        assert result.tier == "interpreted"
        check(result.results)
    assert "cannot be scheduled" in caplog.text


def test_plans_are_shared_between_deadlines() -> None:
    engine = Engine(compile=False)
    first = engine.prepare(model(), spec(deadline_ms=1000.0))
    second = engine.prepare(model(), spec(deadline_ms=2000.0))
    assert first._ready is second._ready
    assert second.spec.deadline_ms == 2000.0
    with pytest.raises(errors.InvalidOption):
        engine.prepare(model(), spec(deadline_ms=-1.0))


def test_numbers_in_foreign_byte_order() -> None:
    for tier in ("interpreted", "compiled"):
        prepared = Engine().prepare(model(), spec(tier=tier))
        check(prepared.execute({"inputs/x": X.astype(">f8"), "inputs/y": Y}).results)


def test_executables_answer_for_programs_that_nobody_makes() -> None:
    plan = Engine(compile=False)._plan(model()).plan
    executable = Executable(plan, "there is no compiler")
    assert executable.choose("auto") is None
    with pytest.raises(errors.CompileFailed, match="there is no compiler"):
        executable.choose("compiled")
