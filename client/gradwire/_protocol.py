"""One request and its answer, without I/O: bytes out, bytes in, when to send again, what to raise.

A `Request` says what to ask. `converse` is a generator that drives it: it yields an `Attempt` to be
sent or a `Wait` to be slept, is sent the `Reply` or the `Lost` that came of it, and returns the
`Answer` or raises the typed error. The two clients differ only in who sends and sleeps.

Sending again is safe where the server can tell: a refusal (429, 503) changed nothing, reads and
runs change nothing, PUT and DELETE say the end state, and appends, creations and transforms carry
an `Idempotency-Key` that all attempts share.
"""

from __future__ import annotations

import email.utils
import random
import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar, cast
from urllib.parse import quote

from gradwire import errors
from gradwire._values import Reference
from gradwire.wire import json as wire_json
from gradwire.wire import messages, safetensors
from gradwire.wire.errors import WireError, read_problem

if TYPE_CHECKING:
    from gradwire._values import Sent
    from gradwire.wire.tensors import Array

__all__ = [
    "CHUNK",
    "LARGEST_PREALLOCATION",
    "SMALL",
    "Answer",
    "Attempt",
    "Exchange",
    "Lost",
    "Reply",
    "Request",
    "RetryPolicy",
    "Wait",
    "converse",
    "idempotency_key",
    "segment",
]

CHUNK: Final = 1 << 20
"""Bodies are handed to httpx in slices of this size: it copies what is left after each write."""

SMALL: Final = 1 << 16
"""A body of so many bytes goes out in one piece: each is a write, and wakes the server."""

LARGEST_PREALLOCATION: Final = 1 << 34
"""The longest answer, in bytes, whose announced length is believed."""

_NO_TENSORS: Final[Mapping[str, Array]] = MappingProxyType({})
_BUSY: Final = frozenset({429, 503})

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What to ask: a route, a document, and the tensors that belong into it, by path.

    Attributes:
        method: The HTTP method.
        path: Below the base URL, its parts already quoted.
        document: The JSON body without the tensors; None for no body.
        tensors: Arrays, or references to resident ones, by their path in the document.
        binary: Send the tensors as safetensors; else as JSON.
        binary_answer: Ask for the answer as safetensors.
        query: Query parameters.
        headers: Further headers.
        repeatable: Whether it may be sent again when the fate of an attempt is unknown.
        sources: The caller's line for each entry that the request appends.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    document: Mapping[str, object] | None = None
    tensors: Mapping[str, Sent] = field(default_factory=dict[str, "Sent"])
    binary: bool = False
    binary_answer: bool = False
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    repeatable: bool = True
    sources: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came back: the document, and tensors by path where the answer was binary."""

    status: int
    document: object
    tensors: Mapping[str, Array]
    headers: Mapping[str, str]


Exchange: TypeAlias = Generator[Request, Answer, T]
"""A conversation of one or more requests that ends in a T."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long to try again.

    Every wait is lengthened by up to a quarter, at random, so that clients which were turned away
    together do not come back together.

    Attributes:
        attempts: The most times one request is sent.
        longest_wait: A `Retry-After` beyond this many seconds is not waited for.
        first_wait: The wait in seconds where the server names none; it doubles each time.
    """

    attempts: int = 4
    longest_wait: float = 30.0
    first_wait: float = 0.1


@dataclass(frozen=True)
class Attempt:
    """One sending of a request: to be sent exactly as it stands."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    chunks: tuple[bytes | memoryview, ...]

    @property
    def size(self) -> int:
        """The length of the body in bytes."""
        return sum(len(chunk) for chunk in self.chunks)

    def pieces(self) -> Iterator[memoryview]:
        """The body as it is to be written: a small one whole, others in slices of `CHUNK`."""
        chunks = self.chunks if self.size > SMALL else (b"".join(self.chunks),)
        for chunk in chunks:
            view = memoryview(chunk)
            for at in range(0, len(view), CHUNK):
                yield view[at : at + CHUNK]


@dataclass(frozen=True)
class Wait:
    """A pause before the next attempt."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """The bytes of an answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes | memoryview = b""


@dataclass(frozen=True)
class Lost:
    """No answer: the server was never reached, the connection broke, or time ran out."""

    how: Literal["unreached", "broken", "timeout"]
    reason: str = ""
    url: str = ""


def segment(text: str) -> str:
    """One part of a path, quoted; . and .. too, which would be steps in the path."""
    return "%2E" * len(text) if text in (".", "..") else quote(text, safe="")


def idempotency_key() -> dict[str, str]:
    """The header that makes a write safe to repeat."""
    return {messages.IDEMPOTENCY_KEY: secrets.token_hex(16)}


def converse(
    request: Request, policy: RetryPolicy
) -> Generator[Attempt | Wait, Reply | Lost | None, Answer]:
    """Sends a request until it is answered for good.

    Raises:
        GradwireError: The server's refusal, or what became of the last attempt.
    """
    attempt = _attempt(request)
    for count in range(1, policy.attempts + 1):
        outcome = yield attempt
        assert outcome is not None  # only a Wait is answered with nothing
        seconds = _wait_before_next(request, outcome, count, policy)
        if seconds is None:
            if isinstance(outcome, Lost):
                raise _lost(outcome, attempt)
            if request.method == "DELETE" and outcome.status == 404 and count > 1:
                return Answer(204, None, _NO_TENSORS, outcome.headers)  # an earlier attempt did it
            return _answer(request, outcome)
        yield Wait(seconds)
    raise AssertionError("the last attempt is never waited after")


# -- out -------------------------------------------------------------------------------------------


def _attempt(request: Request) -> Attempt:
    wanted = messages.BINARY if request.binary_answer else messages.JSON
    headers = {"Accept": f"{wanted}, {messages.PROBLEM}", **request.headers}
    chunks: list[bytes | memoryview] = []
    arrays = {p: t for p, t in request.tensors.items() if not isinstance(t, Reference)}
    placed = {p: t.document() for p, t in request.tensors.items() if isinstance(t, Reference)}
    if request.binary and arrays:
        headers["Content-Type"] = messages.BINARY
        document = request.document and _with_tensors(request.document, placed)
        chunks += safetensors.pack(arrays, document, "request")
    elif request.document is not None:
        headers["Content-Type"] = messages.JSON
        chunks.append(wire_json.dumps(_with_tensors(request.document, {**arrays, **placed})))
    return Attempt(request.method, request.path, request.query, headers, tuple(chunks))


def _with_tensors(document: Mapping[str, object], tensors: Mapping[str, object]) -> object:
    """The document with each tensor, which `wire_json.dumps` writes, put where its path says."""
    if not tensors:
        return document
    whole = _copy(document)
    for path, tensor in tensors.items():
        _place(whole, path, tensor)
    return whole


def _copy(node: object) -> object:
    if isinstance(node, Mapping):
        members = cast("Mapping[str, object]", node)
        return {name: _copy(member) for name, member in members.items()}
    if isinstance(node, list | tuple):
        return [_copy(item) for item in cast("Sequence[object]", node)]
    return node


def _place(node: object, path: str, value: object) -> None:
    # A group is known by its name; what follows it is the tensor's name, slashes included.
    head, _, rest = path.partition("/")
    while not (head in messages.TENSOR_GROUPS or head == "attrs"):
        if isinstance(node, list):
            node = cast("list[object]", node)[int(head)]
        else:
            node = cast("dict[str, object]", node)[head]
        head, _, rest = rest.partition("/")
    group = cast("dict[str, dict[str, object]]", node).setdefault(head, {})
    group[rest] = value


# -- in --------------------------------------------------------------------------------------------


def _answer(request: Request, reply: Reply) -> Answer:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if reply.status >= 400:
        raise _refusal(request, reply, kind)
    try:
        if kind == messages.BINARY:
            tensors, document = safetensors.unpack(reply.body, "response")
            return Answer(reply.status, document or {}, tensors, reply.headers)
        if not reply.body:
            return Answer(reply.status, None, _NO_TENSORS, reply.headers)
        if kind == messages.JSON:
            return Answer(reply.status, wire_json.loads(reply.body), _NO_TENSORS, reply.headers)
    except WireError as error:
        raise errors.UnexpectedAnswer(
            f"the answer cannot be read: {error.detail}", status=reply.status
        ) from None
    raise errors.UnexpectedAnswer(
        f"the answer has content type {kind or 'none'}; is {request.path} a gradwire server?",
        status=reply.status,
    )


def _refusal(request: Request, reply: Reply, kind: str) -> errors.GradwireError:
    document: object = None
    if kind in (messages.PROBLEM, messages.JSON):
        try:
            document = wire_json.loads(reply.body)
        except WireError:
            document = None  # read_problem names the status instead
    problem = read_problem(document, reply.status)
    facts = dict(problem.facts)
    index = facts.get("node_index")
    if "source" not in facts and isinstance(index, int) and 0 <= index < len(request.sources):
        facts["source"] = request.sources[index]
    if reply.status in _BUSY and "retry_after" not in facts:
        facts["retry_after"] = _retry_after(reply)
    request_id = facts.pop("request_id", None) or reply.headers.get(messages.REQUEST_ID.lower())
    cls = errors.BY_CODE.get(problem.code, errors.GradwireError)
    said = problem.detail or problem.title
    if document is None or kind not in (messages.PROBLEM, messages.JSON):
        said += f", with {kind or 'no content type'}: is it a Gradwire server that answers there?"
    return cls(
        said,
        code=problem.code,
        status=reply.status,
        facts=facts,
        request_id=str(request_id) if request_id is not None else None,
    )


def _lost(outcome: Lost, attempt: Attempt) -> errors.TransportError:
    what = f"{attempt.method} {attempt.path}"
    if outcome.how == "timeout":
        where = f" at {outcome.url}" if outcome.url else ""
        return errors.TimedOut(f"{what}{where} took longer than the timeout: {outcome.reason}")
    if outcome.how == "unreached":
        where = outcome.url or "the address given"
        return errors.ConnectionFailed(
            f"no server could be reached at {where} for {what}: {outcome.reason}"
        )
    return errors.ConnectionFailed(f"the connection broke during {what}: {outcome.reason}")


# -- again? ----------------------------------------------------------------------------------------


def _wait_before_next(
    request: Request, outcome: Reply | Lost, count: int, policy: RetryPolicy
) -> float | None:
    """Seconds to wait before sending again, or None where this outcome stands."""
    if count >= policy.attempts:
        return None
    backoff = policy.first_wait * 2 ** (count - 1)
    if isinstance(outcome, Lost):
        again = outcome.how == "unreached" or (outcome.how == "broken" and request.repeatable)
        return _spread(backoff) if again else None
    if outcome.status not in _BUSY:
        return None
    named = _retry_after(outcome)
    seconds = backoff if named is None else named
    return _spread(seconds) if seconds <= policy.longest_wait else None


def _spread(seconds: float) -> float:
    return seconds * (1 + random.random() / 4)


def _retry_after(reply: Reply) -> float | None:
    """The `Retry-After` of an answer in seconds from now: a number, or a date."""
    text = reply.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
