"""What the wire itself can find wrong, and the body in which every error travels.

`WireError` is raised by the decoders of this package, with the place in the body as `path`.
`STATUS` is the table of the contract: every `code` and the HTTP status it comes with. `problem` and
`read_problem` write and read the `application/problem+json` body (RFC 9457).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STATUS", "Problem", "WireCode", "WireError", "problem", "read_problem"]

WireCode = Literal["malformed_body", "malformed_tensor", "unknown_dtype"]

_ABSENT: Final = object()

STATUS: Final[Mapping[str, int]] = {
    "session_not_found": 404,
    "tensor_not_found": 404,
    "value_not_found": 404,
    "op_not_found": 404,
    "route_not_found": 404,
    "method_not_allowed": 405,
    "unknown_op": 422,
    "var_out_of_bounds": 422,
    "var_shape_mismatch": 422,
    "unknown_name": 422,
    "invalid_name": 422,
    "unknown_tensor": 422,
    "wrong_arity": 422,
    "missing_attribute": 422,
    "unknown_attribute": 422,
    "invalid_attribute": 422,
    "invalid_option": 422,
    "invalid_shape": 422,
    "unknown_dtype": 422,
    "shape_mismatch": 422,
    "dtype_mismatch": 422,
    "index_out_of_bounds": 422,
    "name_conflict": 409,
    "version_conflict": 412,
    "idempotency_conflict": 422,
    "no_output": 422,
    "missing_input": 422,
    "unknown_input": 422,
    "input_shape_mismatch": 422,
    "input_dtype_mismatch": 422,
    "cotangent_shape_mismatch": 422,
    "cotangent_dtype_mismatch": 422,
    "tangent_shape_mismatch": 422,
    "tangent_dtype_mismatch": 422,
    "missing_cotangent": 422,
    "not_differentiable": 422,
    "jvp_unavailable": 422,
    "non_finite": 422,
    "malformed_body": 400,
    "malformed_tensor": 400,
    "unsupported_media_type": 415,
    "unauthenticated": 401,
    "forbidden": 403,
    "request_timeout": 408,
    "headers_too_large": 431,
    "payload_too_large": 413,
    "memory_limit": 413,
    "quota_exceeded": 422,
    "rate_limited": 429,
    "overloaded": 503,
    "draining": 503,
    "compile_failed": 503,
    "storage_full": 507,
    "deadline_exceeded": 504,
    "internal": 500,
}


class WireError(Exception):
    """A body, or a tensor in it, is not what the contract says.

    Attributes:
        code: `malformed_body`, `malformed_tensor` or `unknown_dtype`.
        path: Where in the body, with slashes (`inputs/x`, `nodes/3/attrs/value`); "" is the whole.
        reason: What is wrong there, as a clause that can end a sentence.
        value: The offending value; only an `unknown_dtype` has one.
    """

    def __init__(self, code: WireCode, path: str, reason: str, value: object = _ABSENT) -> None:
        self.code: WireCode = code
        self.path = path
        self.reason = reason
        self.has_value = value is not _ABSENT
        self.value = value if self.has_value else None
        super().__init__(self.detail)

    @property
    def detail(self) -> str:
        """The sentence for people."""
        return f"{self.path or 'the body'}: {self.reason}."

    def facts(self) -> dict[str, object]:
        """The facts that travel beside `code`."""
        facts: dict[str, object] = {"path": self.path, "reason": self.reason}
        if self.has_value:
            facts["value"] = self.value
        return facts

    def __reduce__(self) -> tuple[object, ...]:
        value = (self.value,) if self.has_value else ()
        return type(self), (self.code, self.path, self.reason, *value)


@dataclass(frozen=True)
class Problem:
    """An error answer, read: the members of RFC 9457 and the facts of its `code`."""

    code: str
    status: int
    title: str
    detail: str
    facts: Mapping[str, object]


_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "code", "instance"})


def problem(
    code: str, status: int, detail: str, facts: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The body of an error answer.

    A fact may not be named like a member of RFC 9457: that would hide the member.
    """
    facts = facts or {}
    hidden = _MEMBERS.intersection(facts)
    if hidden:
        raise ValueError(f"facts named like members of a problem body: {sorted(hidden)}")
    words = code.replace("_", " ")
    return {
        "type": f"/errors/{code.replace('_', '-')}",
        "title": words[:1].upper() + words[1:],
        "status": status,
        "detail": detail,
        "code": code,
        **facts,
    }


def read_problem(document: object, status: int) -> Problem:
    """Reads an error answer; one that is no problem body (a proxy's page) becomes code `http_<n>`.

    Args:
        document: The parsed body, or None where it was no JSON.
        status: The HTTP status of the answer.
    """
    if not isinstance(document, dict):
        return Problem(f"http_{status}", status, f"HTTP {status}", "", {})
    members = cast("dict[str, object]", document)
    code = members.get("code")
    return Problem(
        code=code if isinstance(code, str) else f"http_{status}",
        status=status,
        title=str(members.get("title", "")),
        detail=str(members.get("detail", "")),
        facts={name: value for name, value in members.items() if name not in _MEMBERS},
    )
