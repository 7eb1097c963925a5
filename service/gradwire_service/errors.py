"""What the service itself refuses, and how every refusal becomes an answer.

The service's codes are `EngineError`s like the engine's, so that one catalogue holds all. Statuses
stand in one table, `gradwire.wire.errors.STATUS`; `problem_of` turns any exception into the body of
RFC 9457 and its headers, and is the only place that does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from gradwire.wire.errors import STATUS, WireError, problem
from gradwire_engine.errors import EngineError, QuotaExceeded, UnknownDtype
from gradwire_engine.spelling import close_names

__all__ = [
    "Draining",
    "Forbidden",
    "HeadersTooLarge",
    "IdempotencyConflict",
    "Internal",
    "MalformedBody",
    "MalformedTensor",
    "MethodNotAllowed",
    "Overloaded",
    "PayloadTooLarge",
    "Problem",
    "RateLimited",
    "RequestTimeout",
    "RouteNotFound",
    "SessionNotFound",
    "StorageFull",
    "TensorNotFound",
    "Unauthenticated",
    "UnknownTensor",
    "UnsupportedMediaType",
    "VersionConflict",
    "close_matches",
    "problem_of",
]


class ServiceFault(EngineError):
    """A refusal that has to do with HTTP, sessions or the store rather than with graphs."""


class SessionNotFound(ServiceFault, template="there is no session {session!r}."):
    """No session of this owner has that id or name, or none any more since `expired_at`."""

    session: str
    suggestions: list[str]
    expired_at: str | None = None

    def sentence(self) -> str:
        """The message, which says since when a session that has ended is not there."""
        if self.expired_at is None:
            return super().sentence()
        return f"the session {self.session!r} ended at {self.expired_at}: nobody had used it."


def _no_tensor(name: str, reason: str | None) -> str:
    nor = "" if reason is None else f", and none can have that name: {reason}"
    return f"there is no resident tensor {name!r}{nor}."


class TensorNotFound(ServiceFault, template="there is no resident tensor {tensor!r}."):
    """No resident tensor of this owner has that name; `reason` says why none can have it."""

    tensor: str
    reason: str | None = None
    suggestions: list[str]

    def sentence(self) -> str:
        """The message, with the rule that the name breaks, if any."""
        return _no_tensor(self.tensor, self.reason)


class RouteNotFound(ServiceFault, template="nothing is served at {path}."):
    """The path of the URL is none of the service's."""

    path: str
    suggestions: list[str]


class MethodNotAllowed(ServiceFault, template="{path} takes {methods}, not {method}."):
    """The path exists, the method does not."""

    path: str
    method: str
    allowed: list[str]

    def sentence(self) -> str:
        """The message, with the methods that are taken."""
        methods = " and ".join(self.allowed)
        return self.template.format(path=self.path, methods=methods, method=self.method)


class VersionConflict(
    ServiceFault,
    template="this is at version {actual}, the request asked for {expected}. Read it again.",
):
    """A precondition names another version than the session or tensor has; 0: it is not there.

    `reason` says what is wrong with one that names no version at all.
    """

    expected: int | str
    actual: int
    reason: str | None = None

    def sentence(self) -> str:
        """The message; a precondition that is no number is quoted, a version 0 explained."""
        why = "" if self.reason is None else f" ({self.reason})"
        said = self.template.format(actual=self.actual, expected=f"{self.expected!r}{why}")
        empty = 0 in (self.expected, self.actual)
        return said + " Version 0 is before anything was written." * empty


class IdempotencyConflict(
    ServiceFault,
    template="the Idempotency-Key {key!r} was used with another body. Choose a new key.",
):
    """A key was used before, with another body."""

    key: str


class MalformedBody(ServiceFault, template="{where}: {reason}."):
    """The body is not what the route takes; `path` says where, "" being the whole."""

    path: str
    reason: str

    def sentence(self) -> str:
        """The message, an empty path written as what it means."""
        return self.template.format(where=self.path or "the body", reason=self.reason)


class MalformedTensor(ServiceFault, template="{where}: {reason}."):
    """A tensor contradicts itself; `path` as of `MalformedBody`."""

    path: str
    reason: str

    def sentence(self) -> str:
        """The message, an empty path written as what it means."""
        return self.template.format(where=self.path or "the tensor", reason=self.reason)


class UnsupportedMediaType(ServiceFault, template="{actual!r} is not understood: {reason}."):
    """A body in a form, or with an encoding, that the service does not read."""

    actual: str
    expected: list[str]
    reason: str


class PayloadTooLarge(ServiceFault, template="the body has {actual} bytes, the limit is {limit}."):
    """The body is larger than the limit; `actual` is what was declared or read so far."""

    limit: int
    actual: int


class Overloaded(ServiceFault, template="the service is busy: {reason}. Try again shortly."):
    """Nothing is wrong with the request; there is no room for it now."""

    reason: str
    retry_after: int = 1


class Draining(ServiceFault, template="this server is shutting down: {reason}."):
    """The server finishes what it has and takes nothing new."""

    reason: str
    retry_after: int = 1


class RateLimited(
    ServiceFault, template="this is more than your share: {reason}. Try again later."
):
    """The owner has as much of the server as one owner gets; `limit` says how much that is."""

    limit: float
    reason: str
    retry_after: int = 1


class Unauthenticated(ServiceFault, template="an API key is needed: {reason}."):
    """The request has no `Authorization: Bearer` with a key that is valid now."""

    reason: str


class Forbidden(ServiceFault, template="{header}: {value!r} is refused: {reason}."):
    """A request that a web page may have made a browser send to a server without keys."""

    header: str
    value: str
    reason: str


class RequestTimeout(
    ServiceFault, template="the request came too slowly: {received} bytes in {seconds} seconds."
):
    """The client took too long to send the request; nothing of it was acted upon."""

    seconds: float
    received: int


class HeadersTooLarge(
    ServiceFault, template="the request's headers have {actual} bytes, the limit is {limit}."
):
    """Path and headers together are larger than the limit."""

    limit: int
    actual: int


class StorageFull(ServiceFault, template="the store has no room left. Nothing was changed."):
    """The disk, or the database's limit, is full."""


class UnknownTensor(ServiceFault, template="there is no resident tensor {name!r}."):
    """A run names a resident tensor that is not there; `reason` as of `TensorNotFound`."""

    name: str
    path: str
    reason: str | None = None
    suggestions: list[str]

    def sentence(self) -> str:
        """As of `TensorNotFound`."""
        return _no_tensor(self.name, self.reason)


class Internal(ServiceFault, template="an internal fault; it is logged under this request id."):
    """A fault of the service, never of the request."""


def close_matches(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names that the caller may have meant."""
    return close_names(name[:200], known) or []


class Problem(NamedTuple):
    """An answer that refuses: its status and error code, its body, and headers."""

    status: int
    code: str
    body: bytes
    headers: dict[str, str]


def problem_of(error: BaseException, request_id: str) -> Problem:
    """The answer to `error`.

    A fact may be any JSON value; numbers that JSON cannot hold travel as strings. Whatever is no
    `EngineError` or `WireError` is `internal` and says nothing but the request id.
    """
    try:
        return _problem(_refusal(error), request_id)
    except RecursionError:  # a fact that quotes a body of extreme depth
        return _problem(_TOO_DEEP, request_id)


def _problem(refusal: EngineError, request_id: str) -> Problem:
    status = STATUS[refusal.code]
    facts = {name: _plain(value) for name, value in refusal.facts().items()}
    if hasattr(refusal, "suggestions"):
        facts.setdefault("suggestions", [])  # a caller may rely on the list being there
    detail = refusal.message[:_MAX_DETAIL]
    if isinstance(refusal, QuotaExceeded):
        detail = f"{detail} {_ROOM[refusal.quota]}"
    body = problem(refusal.code, status, detail, {**facts, "request_id": request_id})
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(facts.get("retry_after", 1))
    if isinstance(refusal, MethodNotAllowed):
        headers["Allow"] = ", ".join(refusal.allowed)
    if isinstance(refusal, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="gradwire"'
    if isinstance(refusal, UnsupportedMediaType) and "identity" in refusal.expected:
        headers["Accept-Encoding"] = ", ".join(refusal.expected)
    if isinstance(refusal, Draining | RequestTimeout):
        headers["Connection"] = "close"  # this connection has no future
    # ASCII only: a fact may quote text that UTF-8 cannot hold, such as half a surrogate pair.
    text = json.dumps(body, allow_nan=False).encode("ascii")
    return Problem(status, refusal.code, text, headers)


_ROOM: Final = {
    "nodes": "Divide the graph among sessions, or raise GRADWIRE_MAX_NODES.",
    "elements": "Make the value smaller, or raise GRADWIRE_MAX_ELEMENTS.",
    "sessions": "Delete some that GET /v1/sessions lists, or raise GRADWIRE_MAX_SESSIONS.",
    "tensors": "Delete some that GET /v1/tensors lists, or raise GRADWIRE_MAX_TENSORS.",
    "tensor_bytes": "Delete some that GET /v1/tensors lists, or raise GRADWIRE_TENSOR_BYTES.",
    "linearization_bytes": "Delete linearizations, which are sessions, or wait until one expires, "
    "or raise GRADWIRE_LINEARIZATION_BYTES.",
}
"""How there comes to be room, by quota."""

# Only bodies nest as their senders like; nothing in the service recurses otherwise.
_TOO_DEEP = MalformedBody(path="", reason="it is nested too deeply")


def _refusal(error: BaseException) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, WireError):
        return from_wire(error)
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(error, MemoryError):
        return Overloaded(reason="there is not enough memory at the moment")
    return Internal()


def from_wire(error: WireError) -> EngineError:
    """The refusal for a fault that the wire codec found."""
    if error.code == "unknown_dtype":
        return UnknownDtype(path=error.path, value=error.value, reason=error.reason)
    kind = MalformedTensor if error.code == "malformed_tensor" else MalformedBody
    return kind(path=error.path, reason=error.reason)


_MAX_TEXT = 2000
_MAX_DETAIL = 4000
_MAX_ITEMS = 100
_MAX_DEPTH = 8


def _plain(value: Any, depth: int = 0) -> Any:
    """A fact as JSON can hold it, cut to a readable size: it may quote the request."""
    if depth > _MAX_DEPTH:
        return "..."
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 3] + "..."
    if isinstance(value, int | np.integer):
        number = int(value)
        return number if number.bit_length() <= 1024 else "an integer of hundreds of digits"
    if isinstance(value, float | np.floating):
        real = float(value)
        if math.isfinite(real):
            return real
        return "NaN" if math.isnan(real) else "Infinity" if real > 0 else "-Infinity"
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}"
    if isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS]
        return {str(name)[:200]: _plain(item, depth + 1) for name, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    return str(value)[:_MAX_TEXT]
