"""The short way of a small request: begun where it arrives, answered where its commit is told of.

A request usually has a task of its own, and passes layer after layer in and out; for a small append
that is more work than the append. `Swift` begins one on the event loop, and answers it there once
it is durable. Whatever is not as simple as that (a refusal, a key that is not known yet, anything
that may block) goes the long way, which takes it up where it stands: what was `Begun` travels with
the request, in its `Exchange`.

Requests are begun when all that has arrived by then is read. To read one and to begin one are
different code and memory: in turns, each finds the processor's caches full of the other, which
takes a seventh of the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from .answers import send_whole
from .exchange import Exchange
from .http import Call, Reply
from .store import AlreadyDone, Commit, Moved

if TYPE_CHECKING:
    from .app import Service
    from .dispatch import Paths, Resource

__all__ = ["SMALL_BODY", "Begun", "Swift"]

SMALL_BODY = 4096
"""The largest body, in bytes, that is looked at on the event loop: a millisecond of work or two."""

_DIGITS = 10


class Begun:
    """What was begun of a request, and is answered once it is committed."""

    __slots__ = ("_make", "call", "commit")

    def __init__(self, call: Call, commit: Commit, make: Callable[[], Reply]) -> None:
        """`make` makes the answer to `call` once `commit` is done."""
        self.call = call
        self.commit = commit
        self._make = make

    def reply(self) -> Reply | None:
        """The answer; None where the handler has to do the work after all.

        Raises:
            EngineError: It could not be committed.
        """
        refusal = self.commit.exception()  # it is settled: nobody has to be waited for
        if refusal is None:
            return self._make()
        if isinstance(refusal, Moved | AlreadyDone):
            return None
        raise refusal

    def when_done(self, then: Callable[[], None]) -> None:
        """Have a function called on the loop when it is committed, or is not going to be."""
        self.commit.when_done(partial(self.call.service.homecoming.bring, then))

    async def wait(self) -> None:
        """Return when it is committed, or is not going to be."""
        durable = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not durable.done():  # as it is where the request was given up
                durable.set_result(None)

        self.when_done(end)
        await durable


class Swift:
    """Begins requests and answers them, on the event loop of a server.

    Attributes:
        soon: Has a function called that begins a request, when the loop has read what is there.
    """

    def __init__(self, service: Service, paths: Paths) -> None:
        self._service = service
        self._paths = paths
        self.soon = service.homecoming.announce

    def takes(self, cycle: RequestResponseCycle) -> bool:
        """Whether a request of which all is there is of a kind that may be begun."""
        scope: Any = cycle.scope
        if scope["method"] != "POST" or len(cycle.body) > SMALL_BODY:
            return False
        found = self._paths.find(scope["path"])
        if found is None or found[0].swift is None or self._service.draining.is_set():
            return False
        scope["endpoint"], scope["path_params"] = found
        return True

    def begin(self, cycle: RequestResponseCycle) -> Begun | None:
        """Begin a request that it `takes`; None where it has to take the long way."""
        scope: Any = cycle.scope
        service = self._service
        exchange = Exchange.of(scope)
        try:
            service.access.check_page(scope)
            resource: Resource = scope["endpoint"]
            begun = resource.begin(scope, service, exchange, bytes(cycle.body))
        except Exception:  # the long way comes to it again, and has an answer to whatever it is
            return None
        exchange.begun, exchange.declined = begun, begun is None
        return begun

    def awaits(self, cycle: RequestResponseCycle) -> bool:
        """Whether it is worth a moment to see if the rest of a request's body comes."""
        scope: Any = cycle.scope
        if scope["method"] != "POST" or cycle.waiting_for_100_continue:
            return False
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not (length.isdigit() and len(length) < _DIGITS and int(length) <= SMALL_BODY):
            return False
        found = self._paths.find(scope["path"])
        return found is not None and found[0].swift is not None

    def answer(self, begun: Begun, cycle: RequestResponseCycle) -> bool:
        """Send the answer to what is committed, if it leaves in one piece; False: by the long way.

        Nothing is sent of an answer that is not a success.
        """
        try:
            reply = begun.reply()
        except Exception:  # as in `begin`
            return False
        if reply is None:
            return False
        exchange = begun.call.exchange
        status, body = reply.status, b"".join(reply.chunks)
        headers = reply.head(len(body))
        headers.append(exchange.tag)
        if not (cycle.disconnected or send_whole(cycle, status, headers, body)):
            return False
        exchange.begun = None
        exchange.started, exchange.status = True, status
        exchange.sent = len(body)
        self._service.sight.report(exchange)
        return True
