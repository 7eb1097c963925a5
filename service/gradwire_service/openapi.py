"""The OpenAPI 3.1 document, assembled from the routes below and from the op catalogue.

Every op of the catalogue is a schema of its own, told apart by `op`. The document describes;
requests are not validated against it, but by `requests` and by the op declarations it is made from.
The examples tell one story about a session called `example`: sent in the order of `STORY` they all
work.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Final

from gradwire.wire.errors import STATUS
from gradwire.wire.messages import BINARY, JSON, PROBLEM
from gradwire_engine import ops

from .catalogue import attributes_schema
from .openapi_examples import STORY
from .openapi_schemas import COMPONENTS, PARAMETERS

__all__ = ["openapi_document"]

Document = dict[str, Any]


def openapi_document() -> Document:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gradwire",
            "version": metadata.version("gradwire"),
            "summary": "Differentiable tensor graphs as a service.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": {**COMPONENTS, **_op_schemas()},
            "parameters": PARAMETERS,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, where the server requires one.",
                }
            },
        },
        "security": [{"key": []}, {}],
    }


_DESCRIPTION: Final = """\
Build a graph op by op, run it forward, pull cotangents back (VJP), push tangents forward (JVP).

Any body that holds tensors may be `application/x-safetensors` instead of JSON: one file whose
tensors are named by their path in the JSON form (`inputs/x`) and whose metadata key `request`
(`response`) holds the JSON of everything else. Errors are `application/problem+json`: `code` and
the facts beside it are the contract, `detail` is for people.
"""

_TAGS: Final = {
    "sessions": "Graphs that grow.",
    "runs": "Forward, VJP and JVP.",
    "tensors": "Arrays that stay on the server, for runs to use and to write.",
    "ops": "What a graph can be made of.",
    "service": "Limits and health.",
}

# -- ops -------------------------------------------------------------------------------------------


def _op_schemas() -> Document:
    """A schema for each op's entry, and `Entry`, which is one of them."""
    schemas = {f"op.{op.name}": _op_schema(op) for op in ops.CATALOGUE.values()}
    references = {name.removeprefix("op."): f"#/components/schemas/{name}" for name in schemas}
    aliases = {alias: references[op.name] for op in ops.CATALOGUE.values() for alias in op.aliases}
    entry = {
        "description": "One op to append. An alias of an op (`logSoftmax`) may stand for its name.",
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "op", "mapping": {**references, **aliases}},
    }
    return {"Entry": entry, **schemas}


def _op_schema(op: type[ops.Op]) -> Document:
    low, high = op.arity()
    operands = [
        f"`{o.name}`" + (" (any number)" if o.variadic else " (optional)" if o.optional else "")
        for o in op.operands
    ]
    facts = [
        inspect.cleandoc(op.__doc__ or ""),
        f"Operands: {', '.join(operands) or 'none'}.",
        f"Kind: {op.kind}.",
    ]
    if op.aliases:
        facts.append(f"Also called {', '.join(f'`{alias}`' for alias in op.aliases)}.")
    attributes = attributes_schema(op)
    inputs: Document = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Ref"},
        "minItems": low,
    }
    if high is not None:
        inputs["maxItems"] = high
    return {
        "title": op.name,
        "description": "\n\n".join(facts),
        "type": "object",
        "properties": {
            "op": {"const": op.name},
            "inputs": inputs,
            "attrs": attributes,
            "name": {"anyOf": [{"$ref": "#/components/schemas/Name"}, {"type": "null"}]},
            "source": {"type": ["string", "null"], "maxLength": 300},
        },
        "required": ["op", "inputs", *(["attrs"] if attributes["required"] else [])],
        "additionalProperties": False,
    }


# -- answers ---------------------------------------------------------------------------------------

_ALWAYS: Final = (
    *("overloaded", "draining", "unauthenticated", "forbidden", "rate_limited"),
    *("headers_too_large", "request_timeout"),
)
_BODY: Final = ("malformed_body", "unsupported_media_type", "payload_too_large")
_TENSORS: Final = ("malformed_tensor", "unknown_dtype", "unknown_tensor")
_STORE: Final = ("storage_full",)
_REFS: Final = ("unknown_name", "var_out_of_bounds", "var_shape_mismatch")
_NODES: Final = (
    *_REFS,
    *_TENSORS,
    *("unknown_op", "wrong_arity", "missing_attribute", "unknown_attribute", "invalid_attribute"),
    *("shape_mismatch", "dtype_mismatch", "index_out_of_bounds", "invalid_shape", "invalid_name"),
    *("name_conflict", "memory_limit", "quota_exceeded"),
)
_INPUTS: Final = (
    *("invalid_name", "name_conflict", "invalid_shape", "unknown_dtype", "invalid_option"),
    "memory_limit",
)
_RUN: Final = (
    *_REFS,
    *_TENSORS,
    *("invalid_option", "no_output", "missing_input", "unknown_input", "input_shape_mismatch"),
    *("input_dtype_mismatch", "not_differentiable", "non_finite", "memory_limit"),
    *("deadline_exceeded", "quota_exceeded", "name_conflict", "invalid_name", "compile_failed"),
    *("cotangent_shape_mismatch", "cotangent_dtype_mismatch", "missing_cotangent"),
    *("tangent_shape_mismatch", "tangent_dtype_mismatch", "jvp_unavailable"),
    *("shape_mismatch", "dtype_mismatch", "index_out_of_bounds", "invalid_attribute"),
    *_STORE,
)
_KEYED: Final = ("idempotency_conflict",)
_HELD: Final = ("version_conflict", "quota_exceeded")


def _problems(codes: Sequence[str]) -> Document:
    """Responses by status for a set of codes."""
    by_status: dict[int, set[str]] = {}
    for code in (*codes, *_ALWAYS):
        by_status.setdefault(STATUS[code], set()).add(code)
    return {str(status): _problem(sorted(found)) for status, found in sorted(by_status.items())}


def _problem(codes: Sequence[str]) -> Document:
    schema: Document = {
        "allOf": [{"$ref": "#/components/schemas/Problem"}],
        "properties": {"code": {"enum": list(codes)}},
    }
    described = ", ".join(f"`{code}`" for code in codes)
    return {"description": described, "content": {PROBLEM: {"schema": schema}}}


def _answer(
    description: str, schema: str | None, *, binary: bool = False, headers: Sequence[str] = ()
) -> Document:
    answer: Document = {"description": description}
    if headers:
        answer["headers"] = {name: {"schema": {"type": "string"}} for name in headers}
    if schema is not None:
        answer["content"] = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        if binary:
            answer["content"][BINARY] = {"schema": {"$ref": "#/components/schemas/Binary"}}
    return answer


# -- routes ----------------------------------------------------------------------------------------


def _operation(
    tag: str,
    name: str,
    summary: str,
    success: Mapping[int, Document],
    codes: Sequence[str],
    *,
    parameters: Sequence[str] = (),
    body: str | None = None,
    binary: bool = False,
) -> Document:
    """One operation; its examples come from `STORY` by its name."""
    operation: Document = {"operationId": name, "tags": [tag], "summary": summary}
    if parameters:
        operation["parameters"] = [{"$ref": f"#/components/parameters/{p}"} for p in parameters]
    if body is not None:
        told = {label: story for (kind, label), story in STORY.items() if kind == name}
        content: Document = {
            JSON: {
                "schema": {"$ref": f"#/components/schemas/{body}"},
                "examples": {label: {"value": value} for label, value in told.items()},
            }
        }
        if binary:
            content[BINARY] = {"schema": {"$ref": "#/components/schemas/Binary"}}
        operation["requestBody"] = {"required": True, "content": content}
        codes = (*codes, *_BODY)
    if {"sid", "op", "tensor"}.intersection(parameters):
        # Any text may stand in a path; some, such as a slash, makes it another path.
        codes = (*codes, "route_not_found", "method_not_allowed")
    answers = {str(status): answer for status, answer in success.items()}
    # No 500: nothing that a caller does may lead there.
    operation["responses"] = {**answers, **_problems(codes)}
    return operation


_STATE: Final = ("ETag", "Cache-Control")
_TIMED: Final = ("Server-Timing", "Gradwire-Tier")


def _run_operation(mode: str, summary: str) -> Document:
    return _operation(
        "runs",
        mode,
        summary,
        {200: _answer("The results.", "RunResponse", binary=True, headers=_TIMED)},
        ("session_not_found", *_RUN),
        parameters=("sid",),
        body=f"{mode.capitalize()}Request",
        binary=True,
    )


def _paths() -> Document:
    session = {"sid": ("session_not_found",)}["sid"]
    return {
        "/v1/sessions": {
            "post": _operation(
                "sessions",
                "createSession",
                "Create a session, empty or as a fork of another.",
                {201: _answer("The session.", "Session", headers=("Location", *_STATE))},
                (*session, *_INPUTS, *_KEYED, *_STORE, "quota_exceeded"),
                parameters=("idempotencyKey",),
                body="SessionRequest",
            ),
            "get": _operation(
                "sessions",
                "listSessions",
                "List sessions by age, page by page.",
                {200: _answer("A page of sessions, without their nodes.", "SessionList")},
                ("invalid_option",),
                parameters=("limit", "cursor"),
            ),
        },
        "/v1/sessions/{sid}": {
            "get": _operation(
                "sessions",
                "readSession",
                "Read a session.",
                {200: _answer("The session.", "Session", binary=True, headers=_STATE)},
                (*session, "invalid_option"),
                parameters=("sid", "since"),
            ),
            "delete": _operation(
                "sessions",
                "deleteSession",
                "Delete a session.",
                {204: _answer("It is gone.", None)},
                (*session, "version_conflict", *_STORE),
                parameters=("sid", "ifMatch"),
            ),
        },
        "/v1/sessions/{sid}/nodes": {
            "post": _operation(
                "sessions",
                "appendNodes",
                "Append ops, all or none.",
                {201: _answer("The new values.", "Appended", binary=True, headers=_STATE)},
                (*session, *_NODES, *_KEYED, *_STORE, "version_conflict", "invalid_option"),
                parameters=("sid", "ifMatch", "idempotencyKey"),
                body="AppendRequest",
                binary=True,
            )
        },
        "/v1/sessions/{sid}/values/{ref}": {
            "get": _operation(
                "sessions",
                "readValue",
                "Read one value; with `shape`, check it as a typed handle is checked.",
                {200: _answer("The value.", "Value", binary=True)},
                (*session, "value_not_found", "var_shape_mismatch", "invalid_option"),
                parameters=("sid", "ref", "shape"),
            )
        },
        "/v1/sessions/{sid}/values/{ref}/data": {
            "get": _operation(
                "sessions",
                "readData",
                "Read the data of a const, or another array attribute.",
                {200: _answer("The tensor; `value` in a binary answer.", "Encoded", binary=True)},
                (*session, "value_not_found", "invalid_option"),
                parameters=("sid", "const", "attr"),
            )
        },
        "/v1/sessions/{sid}/outputs": {
            "put": _operation(
                "sessions",
                "declareOutputs",
                "Declare the outputs; none: the last node.",
                {200: _answer("The outputs by id.", "Outputs", headers=_STATE)},
                (*session, *_REFS, *_STORE, "invalid_name", "version_conflict"),
                parameters=("sid", "ifMatch"),
                body="OutputsRequest",
            )
        },
        "/v1/sessions/{sid}/transforms": {
            "post": _operation(
                "sessions",
                "transformSession",
                "Derive a graph and keep it as a new session.",
                {
                    201: _answer(
                        "The session.", "Session", binary=True, headers=("Location", *_STATE)
                    )
                },
                (*session, *_RUN, *_KEYED, *_STORE, "version_conflict"),
                parameters=("sid", "ifMatch", "idempotencyKey"),
                body="TransformRequest",
                binary=True,
            )
        },
        "/v1/sessions/{sid}/jvp-availability": {
            "get": _operation(
                "sessions",
                "readJvpAvailability",
                "Whether the graph can be run in forward mode.",
                {200: _answer("The answer.", "JvpAvailability")},
                (*session, "invalid_option"),
                parameters=("sid",),
            )
        },
        "/v1/sessions/{sid}/forward": {"post": _run_operation("forward", "Run the graph.")},
        "/v1/sessions/{sid}/vjp": {
            "post": _run_operation("vjp", "Run the graph and pull cotangents back.")
        },
        "/v1/sessions/{sid}/jvp": {
            "post": _run_operation("jvp", "Run the graph and push tangents forward.")
        },
        "/v1/execute": {
            "post": _operation(
                "runs",
                "execute",
                "Run a graph that comes with the request; nothing is kept.",
                {200: _answer("The results.", "RunResponse", binary=True, headers=_TIMED)},
                (*_INPUTS, *_NODES, *_RUN),
                body="ExecuteRequest",
                binary=True,
            )
        },
        "/v1/tensors": {
            "get": _operation(
                "tensors",
                "listTensors",
                "List resident tensors by name, page by page.",
                {200: _answer("A page of tensors, without their data.", "TensorList")},
                ("invalid_option",),
                parameters=("limit", "cursor"),
            )
        },
        "/v1/tensors/{name}": {
            "put": _operation(
                "tensors",
                "putTensor",
                "Keep a tensor under a name, in the place of one that is there.",
                {
                    200: _answer("It has taken the place of another.", "Kept", headers=_STATE),
                    201: _answer("It is new.", "Kept", headers=("Location", *_STATE)),
                },
                (*_TENSORS, *_STORE, "invalid_name", "invalid_option", *_HELD),
                parameters=("tensor", "ifMatchTensor", "ifNoneMatch"),
                body="Resident",
                binary=True,
            ),
            "get": _operation(
                "tensors",
                "readTensor",
                "Read a tensor, or only what there is to say of it.",
                {
                    200: _answer(
                        "The tensor, `value` in a binary answer; without its data if `data=false`.",
                        "ReadTensor",
                        binary=True,
                        headers=_STATE,
                    ),
                    304: _answer("It is at the version of `If-None-Match`.", None, headers=_STATE),
                },
                ("tensor_not_found", "invalid_option"),
                parameters=("tensor", "data", "ifNoneMatch"),
            ),
            "delete": _operation(
                "tensors",
                "deleteTensor",
                "Delete a tensor.",
                {204: _answer("It is gone.", None)},
                ("tensor_not_found", "version_conflict", "invalid_option", *_STORE),
                parameters=("tensor", "ifMatchTensor"),
            ),
        },
        "/v1/ops": {
            "get": _operation(
                "ops",
                "listOps",
                "The op catalogue.",
                {200: _answer("Every op.", "OpList")},
                ("invalid_option",),
            )
        },
        "/v1/ops/{op}": {
            "get": _operation(
                "ops",
                "readOp",
                "One op, by its name or an alias.",
                {200: _answer("The op.", "Op")},
                ("op_not_found", "invalid_option"),
                parameters=("op",),
            )
        },
        "/v1/limits": {
            "get": _operation(
                "service",
                "readLimits",
                "The limits in force.",
                {200: _answer("The limits.", "Limits")},
                ("invalid_option",),
            )
        },
        "/errors/{error}": {
            "get": _operation(
                "service",
                "readError",
                "What an error means: where the `type` of a problem leads.",
                {200: _answer("The error.", "Error")},
                ("route_not_found", "invalid_option"),
                parameters=("error",),
            )
        },
        "/healthz": {
            "get": _operation(
                "service",
                "health",
                "Whether the process answers.",
                {200: _answer("It does.", "State")},
                (),
            )
        },
        "/readyz": {
            "get": _operation(
                "service",
                "readiness",
                "Whether it takes requests.",
                {200: _answer("It does.", "State")},
                (),
            )
        },
        "/metrics": {
            "get": _operation(
                "service",
                "metrics",
                "Counts and times for Prometheus.",
                {200: {"description": "Prometheus text.", "content": {"text/plain": {}}}},
                (),
            )
        },
    }
