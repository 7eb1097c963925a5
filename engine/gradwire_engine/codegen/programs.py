"""From a plan's schedule to a program that runs, in the background.

`Programs.request` returns at once; a thread makes the schedule, gets the kernels, loads them and
binds them (`bind.Native`), and whoever asked finds the program in the `Upgrade` or waits for it.
Loaded kernels, the driver and the helper threads are shared by everything in the process.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .bind import DATA_WORD, Drive, Native
from .cache import Cache, Entry
from .compiler import CompileError, Compiler
from .forks import forgets
from .lane import Lane
from .program import Call, Kernel, Schedule
from .python_driver import PythonDriver
from .team import Team, builtin, processors

if TYPE_CHECKING:
    from .loader import Code

_log = logging.getLogger(__name__)

WAITING = 256
"""How many plans may wait to be scheduled; beyond it the oldest are given up."""

COMPILERS = 2
"""How many subprocesses may compile side by side, where there are as many processors."""

RETRY_SECONDS = 30.0
"""After how long a plan that failed for a passing reason is tried again."""

DRIVE = Kernel(
    "from gradwire_engine.codegen.driver import DRIVE as signature, drive as kernel\n", "driver"
)
HELP_OUT = Kernel(
    "from gradwire_engine.codegen.driver import HELP as signature, help_out as kernel\n", "helper"
)


def unavailable() -> str | None:
    """Why nothing can be compiled here; None if it can."""
    for name in ("numba", "llvmlite"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    if os.name != "posix" or sys.implementation.name != "cpython" or not DATA_WORD:
        return "it needs CPython on a POSIX system"
    return None


def jit_is_off() -> bool:
    """Whether kernels run as Python functions, as Numba decides it, without importing Numba."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


class Upgrade:
    """A program in the making.

    Attributes:
        native: The program, once it is there.
        reason: Why there will be none.
        final: Whether it is pointless to ask again.
        moment: When it was decided, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.native: Native | None = None
        self.reason: str | None = None
        self.final = True
        self.moment = 0.0
        self._decided = threading.Event()
        self._process = os.getpid()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is decided; whether it is."""
        return self._decided.wait(seconds)

    @property
    def lapsed(self) -> bool:
        """Whether it is worth asking anew."""
        if not self._decided.is_set():
            return self._process != os.getpid()  # the thread that worked on it is the parent's
        again = self.moment + RETRY_SECONDS
        return self.native is None and not self.final and time.monotonic() > again

    def finish(self, native: Native) -> None:
        """Here it is."""
        self.native = native
        self._decide()

    def fail(self, reason: str, *, final: bool = True) -> None:
        """There is none."""
        self.reason, self.final = reason, final
        self._decide()

    def _decide(self) -> None:
        self.moment = time.monotonic()
        self._decided.set()


class Programs:
    """Makes programs. Starts nothing before it is asked for one.

    Args:
        compiler: Where kernels come from.
        threads: How many threads may work on all runs of this process at a time; None: as many as
            there are processors.
    """

    def __init__(self, compiler: Compiler, threads: int | None = None) -> None:
        self.compiler = compiler
        self.threads = threads or processors()
        self.after_fork()
        forgets(self)

    def after_fork(self) -> None:
        """Begin anew: the thread is the parent's."""
        self._lane = Lane("gradwire-programs", WAITING)

    def request(self, make: Callable[[], Schedule]) -> Upgrade:
        """A program for the schedule that `make` makes, which is called on another thread."""
        upgrade = Upgrade()
        late = partial(upgrade.fail, "too many plans are waiting to be compiled", final=False)
        self._lane.put([(partial(self._schedule, upgrade, make), late)])
        return upgrade

    def _schedule(self, upgrade: Upgrade, make: Callable[[], Schedule]) -> None:
        """First half: the schedule, and a request for its kernels."""
        with _failing(upgrade, "scheduled"):
            schedule = make()
            kernels = {s.kernel.digest: s.kernel for s in schedule.steps if isinstance(s, Call)}
            _show(kernels.values())
            if jit_is_off():
                upgrade.finish(_python_program(schedule, kernels))
                return
            kernels |= {kernel.digest: kernel for kernel in (DRIVE, HELP_OUT)}
            codes = {
                digest: code
                for digest in kernels
                if (code := _SHARED.codes.get(digest)) is not None
            }
            missing = [kernel for digest, kernel in kernels.items() if digest not in codes]
            # Kin are waited for, though not used: from then on no other size waits for them.
            kin = dict.fromkeys(text for kernel in missing for text in kernel.kin)
            others = [other for text in kin if (other := Kernel(text)).digest not in kernels]
            futures = self.compiler.request([*missing, *others])
            entries = dict(zip((kernel.digest for kernel in missing), futures, strict=False))
            late = partial(upgrade.fail, "too many plans are waiting to be loaded", final=False)
            job = (partial(self._bind, upgrade, schedule, codes, entries), late)
            _when_all(futures, lambda: self._lane.put([job]))

    def _bind(
        self,
        upgrade: Upgrade,
        schedule: Schedule,
        codes: dict[str, Code],
        entries: Mapping[str, Future[Entry]],
    ) -> None:
        """Second half: the kernels are there, or it is known that they will not be."""
        with _failing(upgrade, "loaded"):
            for digest, future in entries.items():
                codes[digest] = _SHARED.load(digest, future.result())
            drive, team = _SHARED.machine(codes, self.threads)
            addresses = {digest: code.address for digest, code in codes.items()}
            upgrade.finish(Native(schedule, addresses, drive, team, tuple(codes.values())))


@contextmanager
def _failing(upgrade: Upgrade, what: str) -> Iterator[None]:
    """Turn an exception into the failure of an upgrade."""
    try:
        yield
    except CompileError as error:
        upgrade.fail(str(error), final=error.final)
    except Exception as error:
        _log.exception("a plan cannot be %s", what)
        upgrade.fail(f"{type(error).__name__}: {error}")


def _when_all(futures: Sequence[Future[Entry]], action: Callable[[], object]) -> None:
    """Do something once all futures are done, which may be now."""
    left = len(futures)
    lock = threading.Lock()

    def count(_: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
        action()

    for future in futures:
        future.add_done_callback(count)
    if not futures:
        action()


class _Shared:
    """What a process has once: loaded kernels, the driver, helper threads, compilers."""

    def __init__(self) -> None:
        self.codes: weakref.WeakValueDictionary[str, Code] = weakref.WeakValueDictionary()
        self._resident: list[Code] = []
        self._drive: Drive | None = None
        self._teams: dict[int, Team] = {}
        self._compilers: dict[Path | None, Compiler] = {}
        self.after_fork()
        forgets(self)

    def after_fork(self) -> None:
        """Begin anew: nobody holds the lock."""
        self._lock = threading.Lock()

    def compiler(self, directory: Path | None) -> Compiler:
        """The compiler with its cache in a directory; None: the user's."""
        with self._lock:
            if directory not in self._compilers:
                width = min(COMPILERS, processors())
                self._compilers[directory] = Compiler(Cache(directory), workers=width)
            return self._compilers[directory]

    def load(self, digest: str, entry: Entry) -> Code:
        """Machine code in memory."""
        from .loader import Code  # llvmlite takes time to import, and may be missing

        with self._lock:
            code = self.codes.get(digest)
            if code is None:
                code = self.codes[digest] = Code(*entry)
            return code

    def machine(self, codes: Mapping[str, Code], threads: int) -> tuple[Drive, Team]:
        """The driver and a team, whose code is never unloaded."""
        drive, help_out = codes[DRIVE.digest], codes[HELP_OUT.digest]
        with self._lock:
            if self._drive is None:
                self._drive = builtin(drive.keep())
                self._resident.append(drive)
            if threads not in self._teams:
                self._teams[threads] = Team(threads, help_out.keep())
                self._resident.append(help_out)
            return self._drive, self._teams[threads]


_SHARED = _Shared()
_SHOWN: set[str] = set()


def compiler_for(directory: Path | None = None) -> Compiler:
    """This process's compiler with its cache in a directory; None: the user's."""
    return _SHARED.compiler(directory)


def _python_program(schedule: Schedule, kernels: Mapping[str, Kernel]) -> Native:
    """A program of Python functions, with Numba's JIT switched off."""
    from .compile import define

    drive = PythonDriver()
    addresses = {d: drive.add(define(k.text, k.title or d[:8])) for d, k in kernels.items()}
    return Native(schedule, addresses, drive, None)


def _show(kernels: Iterable[Kernel]) -> None:
    """With ``GRADWIRE_DEBUG=source``: print generated source, once for each kernel."""
    if os.environ.get("GRADWIRE_DEBUG") != "source":
        return
    for kernel in kernels:
        if kernel.digest not in _SHOWN:
            _SHOWN.add(kernel.digest)
            sys.stderr.write(f"# kernel {kernel.digest[:16]}: {kernel.title}\n{kernel.text}\n")
