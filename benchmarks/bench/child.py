"""One process for each peer, told over a pipe what to prepare and when to run it.

Libraries that share a process fight: OpenMP threads spin after their work and take a core from the
next one's pool, allocators and BLAS pools mix. Here each has a process and an environment of its
own, and only one is asked to work at a time; the others wait in a read, their threads asleep.
Nobody is slowed by a policy that its users would not set (such as passive OpenMP waiting).

Run as a program, this module is such a process: ``python -m bench.child NAME FD OPTIONS``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from . import cases, peers, turns
from .servers import processor

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradwire-benchmarks"

REST_SECONDS = 1.0
"""The longest that one is waited for after its turn."""


class ChildError(Exception):
    """What went wrong in a child, its traceback included."""


def environment(threads: int) -> dict[str, str]:
    """A child's environment: its threads, and where compilers keep what they made."""
    threaded = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    return {
        **os.environ,
        **{f"{name}_NUM_THREADS": str(threads) for name in threaded},
        "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"),
        "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


class Child:
    """The parent's end."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        for folder in ("inductor", "jax"):
            (CACHE / folder).mkdir(parents=True, exist_ok=True)
        ours, theirs = Pipe()
        fd = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.child", name, str(fd), json.dumps(options)],
            cwd=Path(__file__).resolve().parent.parent,
            env=environment(options["threads"]),
            pass_fds=[fd],
            stdout=sys.stderr,
        )
        theirs.close()
        self._pipe = ours
        self.versions: dict[str, str] = {}

    def start(self) -> None:
        """Wait until the library is imported; raises `ChildError` when it is not there."""
        self.versions = self._receive()

    def ask(self, verb: str, *arguments: Any) -> Any:
        """The answer to one request (see `Server`).

        Raises:
            ChildError: It failed, or the process is gone.
        """
        try:
            self._pipe.send((verb, arguments))
        except OSError as error:
            raise ChildError(f"{self.name} is gone") from error
        return self._receive()

    def rest(self) -> None:
        """Wait until its threads have stopped spinning: ONNX Runtime's take 50 ms for that."""
        end = time.monotonic() + REST_SECONDS
        used = processor(self._process.pid)
        while time.monotonic() < end:
            time.sleep(0.025)  # one thread that spins takes ticks of the clock meanwhile
            before, used = used, processor(self._process.pid)
            if used == before:
                return

    def _receive(self) -> Any:
        try:
            fine, answer = self._pipe.recv()
        except EOFError as error:
            code = self._process.wait()
            raise ChildError(f"{self.name} ended with exit status {code}") from error
        if not fine:
            raise ChildError(answer)
        return answer

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Server:
    """The child's end: each public method answers one request."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.shapes: str = options["shapes"]
        self.seed: int = options["seed"]
        self.peer = peers.make(name, **options)
        self.ways: dict[tuple[str, str], turns.Way] = {}
        self.data: dict[str, cases.Data] = {}
        self.last: Any = None

    def _data(self, name: str) -> tuple[cases.Case, cases.Data]:
        from .peers.ours import record

        case = cases.find(self.shapes, name)
        if name not in self.data:
            graph = record(case)
            result = graph.type_of(graph.outputs[0][1]).shape
            self.data[name] = cases.draw(case, self.seed, result)
        return case, self.data[name]

    def load(self, name: str, mode: str) -> dict[str, Any]:
        """Choose the fastest way; its label, about how long it takes, and the ways that failed."""
        case, data = self._data(name)
        way = turns.fastest(list(self.peer.spellings(case, mode, data)))
        if isinstance(way, dict):
            return {"failed": way}
        self.ways[name, mode] = way
        return {"way": way.label, "seconds": way.seconds, "failed": way.failed}

    def time(self, name: str, mode: str, runs: int, seconds: float) -> turns.Block:
        """One block of runs."""
        self.last = None
        timed, self.last = turns.block(self.ways[name, mode].thunk, runs, seconds)
        return timed

    def answer(self) -> list[cases.Array]:
        """The answer of the last timed run."""
        result, self.last = self.last, None
        return self.peer.arrays(result)

    def call(self, method: str, name: str, mode: str) -> Any:
        """Something that only this peer knows, such as how much memory a run needs."""
        case, data = self._data(name)
        return getattr(self.peer, method)(case, mode, data)


def serve(name: str, pipe: Connection, options: dict[str, Any]) -> None:
    """Answer requests until the parent closes the pipe."""
    try:
        server = Server(name, options)
        pipe.send((True, server.peer.versions()))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            verb, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(server, verb)(*arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))


if __name__ == "__main__":
    serve(sys.argv[1], Connection(int(sys.argv[2])), json.loads(sys.argv[3]))
