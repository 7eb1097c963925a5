"""One request and its answer, as far as logs, metrics and traces care.

An `Exchange` is made when a request arrives, travels in the ASGI scope, is filled in on the way and
is read once, when the request is done. A `Stopwatch` is the part of it that says how long each step
took; the `Server-Timing` header has it too.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwire.wire.messages import REQUEST_ID

if TYPE_CHECKING:
    from .stop import Stop
    from .swift import Begun

__all__ = ["QUEUE", "Exchange", "Step", "Stopwatch", "exchange_of"]

_KEY = "gradwire.exchange"

QUEUE = "queue"
"""The step of waiting for a thread."""

CLIENT_LEFT = 499
"""The status of a request whose client did not wait for the answer."""


class Step(NamedTuple):
    """A part of the work: when it began, on `time.perf_counter`, and what it took, in seconds."""

    name: str
    began: float
    seconds: float


class Stopwatch:
    """Takes the time of steps that follow one another. To be used by one thread at a time."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """What has passed since the last lap or note was this step."""
        self.note(name, time.perf_counter() - self._since)

    def note(self, name: str, seconds: float) -> None:
        """The first so many seconds since the last lap or note were this step, or more of it."""
        if self.steps and self.steps[-1].name == name:
            before = self.steps[-1]
            self.steps[-1] = before._replace(seconds=before.seconds + seconds)
        else:
            self.steps.append(Step(name, self._since, seconds))
        self._since += seconds

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What is done in the block is this step, whether it succeeds or not."""
        try:
            yield
        finally:
            self.lap(name)

    @property
    def told(self) -> bool:
        """Whether there is more to tell than how long the request waited."""
        return any(name != QUEUE for name, _, _ in self.steps)

    def header(self) -> str:
        """The value of `Server-Timing`: milliseconds by step."""
        return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, _, seconds in self.steps)


class Exchange:
    """What is known of a request; times on `time.perf_counter`, sizes in bytes of bodies as sent.

    Attributes:
        request_id: The caller's id for it, or one of ours.
        scope: The ASGI scope; empty where the request could not be read.
        route: The template of its path, such as ``/v1/sessions/{sid}``, or ``none``.
        method: An HTTP method that the route serves, or ``other``.
        key: The id of the API key that came with it; never the key.
        code: The error code of the answer, or nothing.
        tier: What executed the run, or nothing.
        pool: The threads that worked on it, or nothing.
        watch: Takes the time of what a thread does for it.
        stop: When that has to end early.
        trace_id: The id of its trace, in 32 hexadecimal digits, or nothing.
        probe: Whether it only asked how the server is.
        fault: The exception behind an internal fault.
        admitted: Whether it was counted against its owner's rate.
        begun: What was begun of it on the event loop, for whoever goes on.
        declined: Whether it takes more than may be begun there.
    """

    # One is made for each request: most of it stays as it is here.
    seconds: float = 0.0
    route: str = "none"
    method: str = "other"
    status: int = CLIENT_LEFT
    started: bool = False
    received: int = 0
    sent: int = 0
    key: str = ""
    code: str = ""
    tier: str = ""
    pool: str = ""
    trace_id: str = ""
    watch: Stopwatch | None = None
    stop: Stop | None = None
    probe: bool = False
    fault: BaseException | None = None
    admitted: bool = False
    begun: Begun | None = None
    declined: bool = False

    def __init__(self, request_id: str, scope: MutableMapping[str, Any] | None = None) -> None:
        self.request_id = request_id
        self.scope: MutableMapping[str, Any] = {} if scope is None else scope
        self.began = time.perf_counter()
        self.scope[_KEY] = self

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> Exchange:
        """The exchange that a scope belongs to, a new one if need be."""
        known: Exchange | None = scope.get(_KEY)
        return cls(_request_id(scope), scope) if known is None else known

    @property
    def tag(self) -> tuple[bytes, bytes]:
        """The header of the answer that has the request's id."""
        return _ID_HEADER, self.request_id.encode("ascii")

    def end(self) -> None:
        """Leave the scope: the request is done. To be called once."""
        self.seconds = time.perf_counter() - self.began
        del self.scope[_KEY]  # else both would stay until garbage is collected


def exchange_of(scope: MutableMapping[str, Any]) -> Exchange:
    """The exchange that a scope belongs to."""
    found: Exchange = scope[_KEY]
    return found


_ID_HEADER = REQUEST_ID.lower().encode("ascii")
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def _request_id(scope: Mapping[str, Any]) -> str:
    """The caller's id for the request if it is a sane one, else a new one."""
    for key, value in scope["headers"]:
        if key == _ID_HEADER and _SANE_ID.fullmatch(value):
            given: bytes = value
            return given.decode("ascii")
    return f"{random.getrandbits(128):032x}"  # to be told apart, not to be kept secret
