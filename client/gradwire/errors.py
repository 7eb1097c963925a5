"""What a caller can catch: one class for each `code` of the contract, its facts as attributes.

    GradwireError                 anything below; an unknown code is this class, its facts intact
    +-- TransportError            no answer came: ConnectionFailed TimedOut UnexpectedAnswer
    +-- NotFound                  SessionNotFound TensorNotFound ValueNotFound OpNotFound
    |                             RouteNotFound
    +-- ReferenceRefused          VarOutOfBounds VarShapeMismatch UnknownName InvalidName
    |                             UnknownTensor NameConflict UnknownOp
    +-- CallRefused               WrongArity MissingAttribute UnknownAttribute InvalidAttribute
    +-- OptionRefused             InvalidOption InvalidShape UnknownDtype MalformedBody
    |                             MalformedTensor UnsupportedMediaType MethodNotAllowed
    +-- TypingRefused             ShapeMismatch DtypeMismatch IndexOutOfBounds
    +-- RunRefused                NoOutput MissingInput UnknownInput MissingCotangent
    |                             {Input,Cotangent,Tangent}{Shape,Dtype}Mismatch NotDifferentiable
    |                             JvpUnavailable NonFinite DeadlineExceeded
    +-- WriteConflict             VersionConflict IdempotencyConflict
    +-- AccessRefused             Unauthenticated Forbidden
    +-- LimitReached              PayloadTooLarge HeadersTooLarge RequestTimeout MemoryLimit
    |                             QuotaExceeded StorageFull
    +-- ServerBusy                RateLimited Overloaded Draining CompileFailed
    +-- ServerFault               Internal

A class states the facts that its code promises; one that an answer leaves out is None. Whatever
else an answer says stays in `facts`. `source` is the file and line of the caller that appended the
node at fault, where there is one.
"""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BY_CODE",
    "AccessRefused",
    "CallRefused",
    "CompileFailed",
    "ConnectionFailed",
    "CotangentDtypeMismatch",
    "CotangentShapeMismatch",
    "DeadlineExceeded",
    "Draining",
    "DtypeMismatch",
    "Forbidden",
    "GradwireError",
    "HeadersTooLarge",
    "IdempotencyConflict",
    "IndexOutOfBounds",
    "InputDtypeMismatch",
    "InputShapeMismatch",
    "Internal",
    "InvalidAttribute",
    "InvalidName",
    "InvalidOption",
    "InvalidShape",
    "JvpUnavailable",
    "LimitReached",
    "MalformedBody",
    "MalformedTensor",
    "MemoryLimit",
    "MethodNotAllowed",
    "MissingAttribute",
    "MissingCotangent",
    "MissingInput",
    "NameConflict",
    "NoOutput",
    "NonFinite",
    "NotDifferentiable",
    "NotFound",
    "OpNotFound",
    "OptionRefused",
    "Overloaded",
    "PayloadTooLarge",
    "QuotaExceeded",
    "RateLimited",
    "ReferenceRefused",
    "RequestTimeout",
    "RouteNotFound",
    "RunRefused",
    "ServerBusy",
    "ServerFault",
    "SessionNotFound",
    "ShapeMismatch",
    "StorageFull",
    "TangentDtypeMismatch",
    "TangentShapeMismatch",
    "TensorNotFound",
    "TimedOut",
    "TransportError",
    "TypingRefused",
    "Unauthenticated",
    "UnexpectedAnswer",
    "UnknownAttribute",
    "UnknownDtype",
    "UnknownInput",
    "UnknownName",
    "UnknownOp",
    "UnknownTensor",
    "UnsupportedMediaType",
    "ValueNotFound",
    "VarOutOfBounds",
    "VarShapeMismatch",
    "VersionConflict",
    "WriteConflict",
    "WrongArity",
]

_by_code: dict[str, type[GradwireError]] = {}

BY_CODE: Final[Mapping[str, type[GradwireError]]] = MappingProxyType(_by_code)
"""The class of each code that an answer may carry."""


class GradwireError(Exception):
    """Anything that keeps a request from its answer.

    Attributes:
        code: The stable name of the error.
        status: The HTTP status, or None where no answer came.
        detail: The sentence for people.
        facts: All facts of the answer, also those without an attribute of their own.
        request_id: The id under which the server logged the request.
        node_index: The place of the entry at fault in the request that appended it.
        source: The file and line that appended the node at fault.
    """

    code: str = "error"
    status: int | None
    detail: str
    facts: Mapping[str, object]
    request_id: str | None
    node_index: int | None
    source: str | None

    fact_names: ClassVar[tuple[str, ...]] = ("node_index", "source")

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        super().__init_subclass__()
        own = tuple(inspect.get_annotations(cls))
        cls.fact_names = (*cls.fact_names, *own)
        if code is not None:
            cls.code = code
            _by_code[code] = cls

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        facts: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> None:
        self.code = code or type(self).code
        self.status = status
        self.detail = detail
        self.facts = MappingProxyType(dict(facts or {}))
        self.request_id = request_id
        for name in self.fact_names:
            setattr(self, name, self.facts.get(name))
        super().__init__(detail)

    def __str__(self) -> str:
        said = self.detail or self.code
        if self.source and self.source not in said:
            said = f"{said} (appended at {self.source})"
        # The class says the code already, except of a code that this client does not know.
        return said if self.code == type(self).code else f"{self.code}: {said}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (
            type(self),
            self.detail,
            self.code,
            self.status,
            dict(self.facts),
            self.request_id,
        )


def _rebuild(
    cls: type[GradwireError],
    detail: str,
    code: str,
    status: int | None,
    facts: dict[str, object],
    request_id: str | None,
) -> GradwireError:
    return cls(detail, code=code, status=status, facts=facts, request_id=request_id)


# -- no answer -------------------------------------------------------------------------------------


class TransportError(GradwireError):
    """The request may or may not have been served: no answer that can be read came back."""


class ConnectionFailed(TransportError):
    """The server could not be reached, or the connection broke."""

    code = "connection_failed"


class TimedOut(TransportError):
    """The answer took longer than the client's timeout."""

    code = "timed_out"


class UnexpectedAnswer(TransportError):
    """An answer came that the contract does not know; perhaps another server listens there."""

    code = "unexpected_answer"


# -- what is not there -----------------------------------------------------------------------------


class NotFound(GradwireError):
    """What the path of the request names does not exist."""


class SessionNotFound(NotFound, code="session_not_found"):
    """There is no such session, or no more."""

    session: str
    suggestions: list[str] | None
    expired_at: str | None


class TensorNotFound(NotFound, code="tensor_not_found"):
    """There is no such resident tensor; `reason` says why there cannot be one of that name."""

    tensor: str
    reason: str | None
    suggestions: list[str] | None


class ValueNotFound(NotFound, code="value_not_found"):
    """A session has no such value."""

    ref: int | str
    ctx_len: int
    suggestions: list[str] | None


class OpNotFound(NotFound, code="op_not_found"):
    """The catalogue has no such op."""

    op: str
    suggestions: list[str] | None


class RouteNotFound(NotFound, code="route_not_found"):
    """The server has no such route."""

    path: str
    suggestions: list[str] | None


# -- references ------------------------------------------------------------------------------------


class ReferenceRefused(GradwireError):
    """A name or id in the request does not mean what it should."""


class VarOutOfBounds(ReferenceRefused, code="var_out_of_bounds"):
    """An id names no value that exists at that point; `ctx_len` values do."""

    op: str | None
    operand: str | None
    id: int
    ctx_len: int


class VarShapeMismatch(ReferenceRefused, code="var_shape_mismatch"):
    """A typed handle states another shape (`expected`) than the value has (`actual`)."""

    op: str | None
    operand: str | None
    id: int
    expected: list[int]
    actual: list[int]


class UnknownName(ReferenceRefused, code="unknown_name"):
    """A reference by name finds nothing."""

    name: str
    suggestions: list[str] | None
    op: str | None
    operand: str | None


class InvalidName(ReferenceRefused, code="invalid_name"):
    """A new name breaks the rules for names; `path` says where in the request it stands."""

    name: str
    reason: str | None
    path: str | None
    suggestions: list[str] | None


class UnknownTensor(ReferenceRefused, code="unknown_tensor"):
    """A run names a resident tensor that does not exist; `reason` as of `TensorNotFound`."""

    name: str
    path: str
    reason: str | None
    suggestions: list[str] | None


class NameConflict(ReferenceRefused, code="name_conflict"):
    """A new name is taken."""

    name: str


class UnknownOp(ReferenceRefused, code="unknown_op"):
    """An entry names no op of the catalogue."""

    op: str
    suggestions: list[str] | None


# -- calls of ops ----------------------------------------------------------------------------------


class CallRefused(GradwireError):
    """An op is called with the wrong operands or attributes."""

    op: str


class WrongArity(CallRefused, code="wrong_arity"):
    """Too few or too many operands; `expected` is a number or [low, high], high None if open."""

    expected: int | list[int | None]
    actual: int
    operands: list[str] | None


class MissingAttribute(CallRefused, code="missing_attribute"):
    """A required attribute is absent or null."""

    attribute: str
    value: object
    reason: str | None


class UnknownAttribute(CallRefused, code="unknown_attribute"):
    """The op has no such attribute."""

    attribute: str
    value: object
    reason: str | None
    suggestions: list[str] | None


class InvalidAttribute(CallRefused, code="invalid_attribute"):
    """An attribute is ill-formed in itself."""

    attribute: str
    value: object
    reason: str


# -- bodies and options ----------------------------------------------------------------------------


class OptionRefused(GradwireError):
    """A field of the request is not what the contract says; `path` names it."""

    path: str | None
    value: object
    reason: str | None


class InvalidOption(OptionRefused, code="invalid_option"):
    """An option is of the right type, but not one that it knows."""


class InvalidShape(OptionRefused, code="invalid_shape"):
    """A declared shape has a negative size or too many axes."""


class UnknownDtype(OptionRefused, code="unknown_dtype"):
    """A dtype that is none of float32, float64, int64, bool."""


class MalformedBody(OptionRefused, code="malformed_body"):
    """The body, or a field of it, is not of the type that belongs there."""


class MalformedTensor(OptionRefused, code="malformed_tensor"):
    """A tensor contradicts itself."""


class UnsupportedMediaType(OptionRefused, code="unsupported_media_type"):
    """The server does not read bodies of that content type."""

    actual: str
    expected: list[str]


class MethodNotAllowed(OptionRefused, code="method_not_allowed"):
    """The route exists, but not for that method."""

    method: str
    allowed: list[str]


# -- typing ----------------------------------------------------------------------------------------


class TypingRefused(GradwireError):
    """The operands of an op do not fit it or each other."""

    op: str
    operand: str | None


class ShapeMismatch(TypingRefused, code="shape_mismatch"):
    """An operand has a shape that the op cannot take; a symbolic size is a string."""

    expected: list[int | str]
    actual: list[int]
    reason: str | None


class DtypeMismatch(TypingRefused, code="dtype_mismatch"):
    """An operand has a dtype that the op cannot take."""

    expected: str | list[str]
    actual: str


class IndexOutOfBounds(TypingRefused, code="index_out_of_bounds"):
    """A static index points past an end; `low` and `high` are both legal."""

    attribute: str | None
    index: int
    low: int
    high: int


# -- runs ------------------------------------------------------------------------------------------


class RunRefused(GradwireError):
    """A run cannot start, or had to stop."""


class NoOutput(RunRefused, code="no_output"):
    """The graph has no node and no declared output."""


class MissingInput(RunRefused, code="missing_input"):
    """An input that the outputs depend on was not given; `missing` names all of them."""

    input: str
    missing: list[str]
    suggestions: list[str] | None


class UnknownInput(RunRefused, code="unknown_input"):
    """A run names an input that the graph does not have."""

    input: str
    suggestions: list[str] | None


class InputShapeMismatch(RunRefused, code="input_shape_mismatch"):
    """A given input has another shape than declared; None in `expected` is a size left free."""

    input: str
    expected: list[int | None]
    actual: list[int]


class InputDtypeMismatch(RunRefused, code="input_dtype_mismatch"):
    """A given input has another dtype than declared."""

    input: str
    expected: str
    actual: str


class CotangentShapeMismatch(RunRefused, code="cotangent_shape_mismatch"):
    """A cotangent has another shape than its output."""

    output: str
    expected: list[int | None]
    actual: list[int]


class CotangentDtypeMismatch(RunRefused, code="cotangent_dtype_mismatch"):
    """A cotangent has another dtype than its output."""

    output: str
    expected: str
    actual: str


class TangentShapeMismatch(RunRefused, code="tangent_shape_mismatch"):
    """A tangent has another shape than its input."""

    input: str
    expected: list[int | None]
    actual: list[int]


class TangentDtypeMismatch(RunRefused, code="tangent_dtype_mismatch"):
    """A tangent has another dtype than its input."""

    input: str
    expected: str
    actual: str


class MissingCotangent(RunRefused, code="missing_cotangent"):
    """Only a single scalar output has a default cotangent (1)."""

    outputs: list[str]


class NotDifferentiable(RunRefused, code="not_differentiable"):
    """A derivative was asked of an int64, bool or non-differentiable input or output."""

    input: str | None
    output: str | None
    dtype: str


class JvpUnavailable(RunRefused, code="jvp_unavailable"):
    """Forward mode would meet ops that have a VJP only."""

    ops: list[str]
    nodes: list[int]


class NonFinite(RunRefused, code="non_finite"):
    """The first non-finite value that a run with `nan_policy="error"` met."""

    stage: str
    node: int
    name: str | None
    op: str | None
    sample: int | None
    index: int
    value: str


class DeadlineExceeded(RunRefused, code="deadline_exceeded"):
    """The run took longer than its deadline."""

    deadline_ms: float


# -- writers, access, limits -----------------------------------------------------------------------


class WriteConflict(GradwireError):
    """Another write came in between."""


class VersionConflict(WriteConflict, code="version_conflict"):
    """The session or tensor is at another version than the write builds on; 0: there is none."""

    expected: int | str
    actual: int
    reason: str | None


class IdempotencyConflict(WriteConflict, code="idempotency_conflict"):
    """The idempotency key was used with another body."""

    key: str


class AccessRefused(GradwireError):
    """The server does not let this caller do that."""


class Unauthenticated(AccessRefused, code="unauthenticated"):
    """The server wants an API key, and the request had none that is valid."""

    reason: str


class Forbidden(AccessRefused, code="forbidden"):
    """A server without keys refuses what a web page may have made a browser send."""

    header: str
    value: str
    reason: str


class LimitReached(GradwireError):
    """The request is sound, but more than this server serves; waiting does not help."""

    limit: int | None


class PayloadTooLarge(LimitReached, code="payload_too_large"):
    """The body has more bytes than the server takes."""

    actual: int


class HeadersTooLarge(LimitReached, code="headers_too_large"):
    """Path and headers have more bytes than the server takes."""

    actual: int


class RequestTimeout(LimitReached, code="request_timeout"):
    """The server waited too long for the request: `received` bytes came in `seconds`."""

    seconds: float
    received: int


class MemoryLimit(LimitReached, code="memory_limit"):
    """The estimated memory, in bytes, exceeds the limit."""

    actual: int


class QuotaExceeded(LimitReached, code="quota_exceeded"):
    """More nodes, sessions, tensors, elements or ..._bytes than the limit.

    Attributes:
        wanted: What the request would add, or have.
        held: What counted against the limit before it, where such things add up.
    """

    quota: str
    wanted: int
    held: int | None


class StorageFull(LimitReached, code="storage_full"):
    """The server's disk is full."""


class ServerBusy(GradwireError):
    """Waiting may help; the client has already waited as often as it was told to."""

    retry_after: float | None
    reason: str | None


class RateLimited(ServerBusy, code="rate_limited"):
    """The caller has its share of the server already; `limit` is how much that is."""

    limit: float


class Overloaded(ServerBusy, code="overloaded"):
    """The server's queue is full."""


class Draining(ServerBusy, code="draining"):
    """The server is shutting down."""


class CompileFailed(ServerBusy, code="compile_failed"):
    """The run insisted on compiled code, and there is none."""


class ServerFault(GradwireError):
    """The fault is the server's."""


class Internal(ServerFault, code="internal"):
    """The server met a fault of its own; `request_id` finds it in its log."""
