"""Kernels on demand: from memory, from the disk cache, or compiled by a subprocess.

Compiling holds the interpreter for seconds, so it is never done in this process: subprocesses of
low priority compile one kernel at a time (`worker.py`). One is started with the first kernel,
another where more are waiting, and each ends when it has had nothing to do for a while. A kernel
that takes too long is given up and the subprocess killed; one that kills the subprocess is tried
once more. What failed is remembered.

With Numba's JIT switched off there is nothing to compile: kernels are Python functions.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .cache import Cache, Entry, toolchain
from .forks import forgets
from .lane import Lane
from .program import Kernel

_log = logging.getLogger(__name__)

SECONDS = 300.0
"""How long one kernel may take to compile: seconds of work, many times that on a busy machine."""

IDLE_SECONDS = 30.0
"""How long a subprocess waits for more to compile before it ends."""

WAITING = 4096
"""How many kernels may wait; beyond it the oldest are given up, to be asked for again."""

_COMMAND = (sys.executable, "-P", "-m", "gradwire_engine.codegen.worker")


class CompileError(Exception):
    """A kernel cannot be had. `final` tells whether trying again is pointless."""

    def __init__(self, reason: str, *, final: bool = True) -> None:
        super().__init__(reason)
        self.final = final


class WorkerDied(Exception):
    """The subprocess ended in the middle of a compilation."""


@dataclass
class Tally:
    """What a compiler has done in this process: kernels, and seconds spent on them.

    `found` and `missed` count the kernels that were looked for in the cache.
    """

    compiled: int = 0
    failed: int = 0
    seconds: float = 0.0
    found: int = 0
    missed: int = 0


class Worker:
    """A running compile subprocess."""

    def __init__(self) -> None:
        environment = dict(os.environ)
        for name in ("NUMBA_DISABLE_JIT", "PYTHONWARNINGS"):
            environment.pop(name, None)
        paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        self.pid = self._process.pid

    def compile(self, text: str, seconds: float) -> Entry:
        """Have a kernel compiled.

        Raises:
            CompileError: It cannot be compiled.
            TimeoutError: That takes too long.
            WorkerDied: The subprocess is gone.
        """
        content = text.encode()
        until = time.monotonic() + seconds
        try:
            self._stream(self._process.stdin).write(len(content).to_bytes(8, "little") + content)
        except OSError as error:
            raise WorkerDied from error
        size = int.from_bytes(self._read(8, until), "little")
        head, _, image = self._read(size, until).partition(b"\n")
        said = json.loads(head)
        if "error" in said:
            raise CompileError(said["error"])
        if said["toolchain"] != toolchain():
            reason = "the package has changed on disk since this process was started"
            raise CompileError(reason, final=False)
        return said["symbol"], image

    def close(self) -> None:
        """End the subprocess, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this process's ends of the pipes: after a fork, the subprocess is the parent's."""
        if self._process.returncode is None:
            self._process.returncode = 0  # which is not ours to wait for
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                self._stream(stream).close()

    def _read(self, size: int, until: float) -> bytes:
        stream = self._stream(self._process.stdout)
        found = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while len(found) < size:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError
                part = stream.read(size - len(found))
                if not part:
                    raise WorkerDied
                found += part
        return bytes(found)

    @staticmethod
    def _stream(stream: Any) -> Any:
        assert stream is not None  # both are pipes
        return stream


class Compiler:
    """Finds or makes the object files of kernels. Starts nothing before it is asked for one.

    Args:
        cache: Where object files are kept.
        seconds: How long one kernel may take to compile.
        workers: How many subprocesses there may be.

    Attributes:
        tally: What was done.
    """

    def __init__(self, cache: Cache, seconds: float = SECONDS, workers: int = 1) -> None:
        self.cache = cache
        self.tally = Tally()
        self._seconds, self._width = seconds, workers
        self._begin()
        forgets(self)
        _COMPILERS.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, Future[Entry]] = {}
        self._failed: dict[str, CompileError] = {}
        self._lane = Lane("gradwire-compiler", WAITING, IDLE_SECONDS, self._close, self._width)
        self._workers: dict[int, Worker] = {}  # by the thread of the lane that talks to it
        self._ended = False

    def request(self, kernels: Iterable[Kernel]) -> list[Future[Entry]]:
        """The object files of kernels, at once or later.

        A future may raise `CompileError`.
        """
        futures: list[Future[Entry]] = []
        missing: list[tuple[Kernel, Future[Entry]]] = []
        for kernel in kernels:
            entry = self.cache.get(kernel)
            with self._lock:
                if entry is None:
                    self.tally.missed += 1
                else:
                    self.tally.found += 1
                future = self._wanted.get(kernel.digest) if entry is None else None
                if future is None:
                    future = Future()
                    if entry is not None:
                        future.set_result(entry)
                    elif kernel.digest in self._failed:
                        future.set_exception(self._failed[kernel.digest])
                    else:
                        self._wanted[kernel.digest] = future
                        missing.append((kernel, future))
            futures.append(future)
        late = CompileError("too many kernels are waiting to be compiled", final=False)
        self._lane.put(
            (partial(self._serve, *pair), partial(self._settle, *pair, late)) for pair in missing
        )
        return futures

    @property
    def pids(self) -> list[int]:
        """The subprocesses that are running."""
        with self._lock:
            return [worker.pid for worker in self._workers.values()]

    def end(self) -> None:
        """End all subprocesses, for good."""
        with self._lock:
            self._ended = True
            threads = list(self._workers)
        for thread in threads:
            self._close(thread)

    def after_fork(self) -> None:
        """Begin anew: threads and subprocesses are the parent's, and so is what they work on."""
        for worker in self._workers.values():
            worker.forget()
        self._begin()

    def _close(self, thread: int | None = None) -> None:
        """End the subprocess of a thread, the calling one if not said, if it has one."""
        with self._lock:
            worker = self._workers.pop(thread or threading.get_ident(), None)
        if worker is not None:
            worker.close()

    def _serve(self, kernel: Kernel, future: Future[Entry]) -> None:
        """Compile one kernel, on a thread of the lane."""
        entry = self.cache.get(kernel)  # another process may have been faster
        if entry is not None:
            return self._settle(kernel, future, entry)
        began = time.monotonic()
        try:
            entry = self._compile(kernel)
        except CompileError as error:
            with self._lock:
                self.tally.failed += 1
            if error.final:
                _log.warning("a kernel (%s) cannot be compiled: %s", kernel.title, error)
            return self._settle(kernel, future, error)
        except OSError as error:
            _log.warning("the compile subprocess cannot be started: %s", error)
            return self._settle(kernel, future, CompileError(str(error), final=False))
        with self._lock:
            self.tally.compiled += 1
            self.tally.seconds += time.monotonic() - began
        self.cache.put(kernel, entry)
        return self._settle(kernel, future, entry)

    def _compile(self, kernel: Kernel) -> Entry:
        for _ in range(2):
            worker = self._running()
            try:
                return worker.compile(kernel.text, self._seconds)
            except WorkerDied:
                self._close()
            except TimeoutError:
                self._close()
                raise CompileError(f"compiling it took more than {self._seconds:g} s") from None
        raise CompileError("compiling it killed the compile subprocess twice")

    def _running(self) -> Worker:
        with self._lock:
            if self._ended:
                raise CompileError("this process is ending", final=False)
            mine = threading.get_ident()
            if mine not in self._workers:
                self._workers[mine] = Worker()
            return self._workers[mine]

    def _settle(self, kernel: Kernel, future: Future[Entry], outcome: Entry | CompileError) -> None:
        with self._lock:
            self._wanted.pop(kernel.digest, None)
            if isinstance(outcome, CompileError) and outcome.final:
                self._failed[kernel.digest] = outcome
        if isinstance(outcome, CompileError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


_COMPILERS: weakref.WeakSet[Compiler] = weakref.WeakSet()


def _at_exit() -> None:
    for compiler in list(_COMPILERS):
        compiler.end()


atexit.register(_at_exit)
