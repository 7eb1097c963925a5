"""The compile subprocess: what it answers, and what happens when it dies, hangs or cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gradwire_engine import Engine, Entry, RunSpec, errors
from gradwire_engine.codegen import compiler as module
from gradwire_engine.codegen.cache import Cache
from gradwire_engine.codegen.compiler import CompileError, Compiler
from gradwire_engine.codegen.lane import Job, Lane
from gradwire_engine.codegen.loader import Code
from gradwire_engine.codegen.program import Kernel
from gradwire_engine.codegen.programs import Programs, jit_is_off
from gradwire_engine.codegen.worker import NICE

from ..support import grow, inputs
from .handmade import chain

PATIENCE = 200.0  # seconds; the subprocess has a low priority on a busy machine
NOTHING = "def kernel(frame, args, lo, hi, chunk):\n    pass\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiler]:
    """A compiler for tests that leave its subprocess alone: starting one takes seconds."""
    made = Compiler(Cache(tmp_path_factory.mktemp("cache")), seconds=PATIENCE)
    yield made
    made.end()


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[Compiler]:
    """A compiler of one's own."""
    made = Compiler(Cache(tmp_path / "cache"), seconds=PATIENCE)
    yield made
    made.end()


def kernel(prelude: str = "", title: str = "test") -> Kernel:
    """A kernel that does nothing, compiled after `prelude` has run."""
    return Kernel(prelude + NOTHING, title)


def worker_pid(compiler: Compiler) -> int:
    until = time.monotonic() + PATIENCE
    while not compiler.pids and time.monotonic() < until:
        time.sleep(0.01)
    (pid,) = compiler.pids
    return pid


def test_a_kernel_is_compiled_once(compiler: Compiler) -> None:
    one, other = kernel(), kernel("# another\n")
    assert not compiler.pids  # nothing starts by itself
    first, second, again = compiler.request([one, other, one])
    assert first is again
    symbol, image = first.result(PATIENCE)
    assert Code(symbol, image).address
    second.result(PATIENCE)
    pid = worker_pid(compiler)
    lower = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)  # below 19 there is nothing
    assert os.getpriority(os.PRIO_PROCESS, pid) >= lower
    compiler.end()
    (known,) = compiler.request([one])
    assert known.done()
    assert known.result() == (symbol, image)


FAULTS = {
    "SyntaxError": "this is no python\n",
    "KeyError": "x = {}['y']\n",
    "TypingError": "def kernel(frame, args, lo, hi, chunk):\n    return 'a' + 1\n",
    "ImportError: the compiled code would call": (
        "import numpy as np\n"
        "def kernel(frame, args, lo, hi, chunk):\n"
        "    x = np.empty(hi)\n    x[lo] = 1\n    print(x[chunk])\n"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kernel_that_cannot_be_compiled(
    shared: Compiler, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Kernel(FAULTS[fault] + ("" if "def " in FAULTS[fault] else NOTHING), "bad one")
    with pytest.raises(CompileError, match=fault):
        shared.request([bad])[0].result(PATIENCE)
    pid = worker_pid(shared)
    with pytest.raises(CompileError, match=fault):
        shared.request([bad])[0].result(0)  # remembered
    shared.request([kernel()])[0].result(PATIENCE)
    assert worker_pid(shared) == pid  # it survived
    assert [r.message.count("bad one") for r in caplog.records] == [1]


def test_output_of_a_kernel_is_no_answer(shared: Compiler) -> None:
    loud = kernel("import os\nprint('x' * 100000)\nos.write(1, b'y' * 100000)\n")
    shared.request([loud])[0].result(PATIENCE)


def test_two_kernels_side_by_side(tmp_path: Path) -> None:
    # Each waits for the other to have begun.
    text = """\
import pathlib, time
mine, other = (pathlib.Path({directory!r}) / name for name in {names})
mine.touch()
while not other.exists():
    time.sleep(0.01)
"""
    names = [("a", "b"), ("b", "a")]
    compiler = Compiler(Cache(tmp_path / "cache"), seconds=PATIENCE, workers=2)
    kernels = [kernel(text.format(directory=str(tmp_path), names=pair)) for pair in names]
    for future in compiler.request([*kernels, kernel()]):
        future.result(PATIENCE)
    pids = compiler.pids
    assert len(pids) == 2
    compiler.end()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_killed_in_the_middle_is_replaced(compiler: Compiler, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"""\
import pathlib, time
mark = pathlib.Path({str(mark)!r})
if not mark.exists():
    mark.touch()
    time.sleep(1000)
"""
    slow, next_one = compiler.request([kernel(text), kernel()])
    pid = worker_pid(compiler)
    while not mark.exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    slow.result(PATIENCE)
    next_one.result(PATIENCE)
    assert worker_pid(compiler) != pid


def test_a_kernel_that_kills_the_worker_is_given_up(compiler: Compiler) -> None:
    fatal, sound = compiler.request([kernel("import os\nos.abort()\n"), kernel()])
    with pytest.raises(CompileError, match="killed the compile subprocess twice"):
        fatal.result(PATIENCE)
    sound.result(PATIENCE)


def test_a_kernel_that_hangs_is_given_up(compiler: Compiler) -> None:
    compiler.request([kernel("# warm up\n")])[0].result(PATIENCE)
    pid = worker_pid(compiler)
    compiler._seconds = 0.5
    (hanging,) = compiler.request([kernel("while True: pass\n")])
    with pytest.raises(CompileError, match=r"took more than 0\.5 s"):
        hanging.result(PATIENCE)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    compiler._seconds = PATIENCE
    compiler.request([kernel()])[0].result(PATIENCE)


def test_a_worker_that_cannot_start(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_COMMAND", ("/nonexistent/python",))
    with pytest.raises(CompileError) as caught:
        compiler.request([kernel()])[0].result(PATIENCE)
    assert not caught.value.final
    assert "cannot be started" in caplog.text
    monkeypatch.undo()
    compiler.request([kernel()])[0].result(PATIENCE)  # not remembered


def test_code_from_another_version_is_refused(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "toolchain", lambda: "of yesterday")
    with pytest.raises(CompileError, match="changed on disk"):
        compiler.request([kernel()])[0].result(PATIENCE)
    assert not list((tmp_path / "cache").glob("*.object"))


def test_another_process_may_have_been_faster(
    shared: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Kernel] = []
    entry = ("symbol", b"made elsewhere")

    def get(wanted: Kernel) -> tuple[str, bytes] | None:
        looks.append(wanted)
        return entry if len(looks) > 1 else None

    monkeypatch.setattr(shared.cache, "get", get)
    assert shared.request([kernel("# elsewhere\n")])[0].result(PATIENCE) == entry


def test_too_many_kernels(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler._lane, "_bound", 2)
    futures = compiler.request([kernel(f"# {k}\n") for k in range(6)])
    refused = [k for k, f in enumerate(futures) if f.done() and f.exception() is not None]
    assert refused == [2, 3, 4, 5]
    futures[0].result(PATIENCE)


def test_the_worker_ends_when_there_is_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    compiler = Compiler(Cache(tmp_path))
    compiler.request([kernel()])[0].result(PATIENCE)
    until = time.monotonic() + PATIENCE
    while compiler.pids and time.monotonic() < until:
        time.sleep(0.01)
    assert not compiler.pids
    compiler.request([kernel("# more\n")])[0].result(PATIENCE)
    compiler.end()


ORPHAN = """
import sys, time
from pathlib import Path
from gradwire_engine.codegen.cache import Cache
from gradwire_engine.codegen.compiler import Compiler
from gradwire_engine.codegen.program import Kernel
compiler = Compiler(Cache(Path(sys.argv[1])))
compiler.request([Kernel("import time\\ntime.sleep(1000)\\n")])
while not compiler.pids:
    time.sleep(0.01)
print(compiler.pids[0], flush=True)
time.sleep(1000)
"""


def test_the_worker_ends_with_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":  # nobody here adopts it
            return
        time.sleep(0.05)
    pytest.fail("it is still there")


# -- whole programs --------------------------------------------------------------------------------

needs_the_compiler = pytest.mark.skipif(jit_is_off(), reason="kernels are Python functions")


@needs_the_compiler
def test_a_program_whose_kernel_fails(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(worker: object, text: str, seconds: float) -> None:
        raise CompileError("the moon is full", final=text.startswith("from"))

    monkeypatch.setattr(module.Worker, "compile", fail)
    programs = Programs(compiler, threads=2)
    upgrade = programs.request(lambda: chain(10, 2))
    assert upgrade.wait(PATIENCE)
    assert upgrade.native is None
    assert upgrade.reason == "the moon is full"
    assert upgrade.final
    assert not upgrade.lapsed


@needs_the_compiler
def test_a_passing_failure_is_tried_again_later(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs_module = sys.modules["gradwire_engine.codegen.programs"]
    monkeypatch.setattr(programs_module, "RETRY_SECONDS", 0.0)
    graph = grow(inputs(x=(3,)), Entry("exp", (0,)))
    engine = Engine()
    engine._programs = Programs(compiler, threads=1)
    prepared = engine.prepare(graph, RunSpec(inputs=("x",), tier="compiled"))
    given = {"inputs/x": np.zeros(3)}
    with monkeypatch.context() as patch:
        patch.setattr(module, "_COMMAND", ("/nonexistent/python",))
        with pytest.raises(errors.CompileFailed):
            prepared.execute(given)
    assert prepared.execute(given).tier == "compiled"


@needs_the_compiler
def test_a_cache_that_cannot_be_written_and_one_that_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A kernel that no other test has loaded into this process.
    graph = grow(inputs(x=(3,)), Entry("exp", (0,)), Entry("erfc", (1,)), Entry("tan", (2,)))
    given = {"inputs/x": np.zeros(3)}
    spec = RunSpec(inputs=("x",), tier="compiled")
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "cache", tmp_path / "cache"):
        compiler = Compiler(Cache(directory))
        engine = Engine()
        engine._programs = Programs(compiler, threads=1)
        result = engine.prepare(graph, spec).execute(given)
        assert result.tier == "compiled"
        compiler.end()
        for path in directory.glob("*.object"):
            path.write_bytes(path.read_bytes()[:-100])
    assert "in memory only" in caplog.text


@needs_the_compiler
def test_generated_source_is_shown_once(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADWIRE_DEBUG", "source")
    monkeypatch.setattr(sys.modules["gradwire_engine.codegen.programs"], "_SHOWN", set())
    for _ in range(2):
        spec = RunSpec(inputs=("x",), tier="compiled")
        graph = grow(inputs(x=(4,)), Entry("exp", (0,)), Entry("sqrt", (1,)))
        Engine().prepare(graph, spec).execute({"inputs/x": np.zeros(4)})
    shown = capfd.readouterr().err
    assert shown.count("def kernel(frame, args, lo, hi, chunk)") == 1


# -- lanes -----------------------------------------------------------------------------------------


def test_a_lane_does_the_newest_batch_first() -> None:
    done: list[str] = []
    first, go = threading.Event(), threading.Event()
    idle = threading.Event()
    lane = Lane("test", bound=5, idle_seconds=0.05, on_idle=idle.set)

    def job(name: str) -> Job:
        return (lambda: done.append(name)), (lambda: done.append(f"not {name}"))

    def block() -> None:
        first.set()
        go.wait(10)

    lane.put([(block, lambda: None)])
    assert first.wait(10)
    lane.put([job("a"), job("b"), job("c")])
    lane.put([job("d"), job("e"), job("f")])
    go.set()
    assert idle.wait(10)
    assert done == ["not c", "d", "e", "f", "a", "b"]
    lane.put([job("g")])
    until = time.monotonic() + 10
    while done[-1] != "g" and time.monotonic() < until:
        time.sleep(0.01)
    assert done[-1] == "g"
