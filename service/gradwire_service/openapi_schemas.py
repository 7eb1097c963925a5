"""The schemas and parameters that the OpenAPI document refers to; only ops are generated."""

from __future__ import annotations

from typing import Any, Final

from gradwire.wire.errors import STATUS
from gradwire.wire.messages import BINARY
from gradwire_engine.ir import DTYPES, MAX_RANK
from gradwire_engine.request import NAN_POLICIES, REDUCTIONS, TIERS

__all__ = ["COMPONENTS", "PARAMETERS"]

Document = dict[str, Any]


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(items: Document, **more: Any) -> Document:
    return {"type": "array", "items": items, **more}


def _map(values: Document) -> Document:
    return {"type": "object", "additionalProperties": values}


def _nullable(schema: Document) -> Document:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(
    properties: Document, required: tuple[str, ...] = (), *, optional_null: bool = True
) -> Document:
    """A closed object; in requests an optional field may be null."""
    shown = {
        name: _nullable(schema) if optional_null and name not in required else schema
        for name, schema in properties.items()
    }
    return {
        "type": "object",
        "properties": shown,
        "required": list(required),
        "additionalProperties": False,
    }


def _answer(properties: Document, *absent: str) -> Document:
    """An object of an answer: every property is there but those that may be absent."""
    required = tuple(name for name in properties if name not in absent)
    return _object(properties, required, optional_null=False)


_INTEGER: Final[Document] = {"type": "integer"}
_NATURAL: Final[Document] = {"type": "integer", "minimum": 0}
_STRING: Final[Document] = {"type": "string"}
_TIME: Final[Document] = {"type": "string", "format": "date-time"}
_SHAPE: Final = _array(_NATURAL, maxItems=MAX_RANK)
_DTYPE: Final[Document] = {"enum": list(DTYPES)}
_TENSORS: Final = _map(_ref("Tensor"))
_REFS: Final = _array(_ref("Ref"))

_RUN: Final[Document] = {
    "inputs": _TENSORS,
    "outputs": _REFS,
    "transforms": _array(_ref("Transform")),
    "in_axes": _map(_nullable(_INTEGER)),
    "reduce": _map({"enum": list(REDUCTIONS)}),
    "nan_policy": {"enum": list(NAN_POLICIES)},
    "deadline_ms": {"type": "number", "minimum": 0, "maximum": 1e300},
    "tier": {"enum": list(TIERS)},
    "store": {
        **_map(_ref("Name")),
        "description": "Results that become resident tensors instead of being answered: names by "
        "path, such as `outputs/w_new`. All are written, or none.",
    },
}
_VJP: Final[Document] = {"cotangents": _TENSORS, "wrt": _array(_STRING)}
_JVP: Final[Document] = {"tangents": _TENSORS}

_INPUT_SPEC: Final = _object(
    {
        "name": _ref("Name"),
        "shape": _SHAPE,
        "dtype": _DTYPE,
        "differentiable": {"type": "boolean"},
    },
    ("name", "shape"),
)


def _transform(kind: str, properties: Document, *required: str) -> Document:
    known = {"transform": {"const": kind}, "name": _ref("SessionName"), **properties}
    return _object(known, ("transform", *required))


_PARTS: Final[Document] = {"outputs": _REFS, "wrt": _array(_STRING)}

_TRANSFORMS: Final = {
    "vjp": _transform("vjp", _PARTS),
    "jvp": _transform("jvp", _PARTS),
    "vmap": _transform(
        "vmap", {"axis_size": _NATURAL, "in_axes": _map(_nullable(_INTEGER))}, "axis_size"
    ),
    "linearize": _transform("linearize", {"inputs": _TENSORS, **_PARTS}),
}

_NODE: Final[Document] = {
    "id": _NATURAL,
    "op": _STRING,
    "inputs": _array(_NATURAL),
    "attrs": {
        "type": "object",
        "description": "An array of over 1,000 elements is told by dtype, shape, bytes and sha256.",
    },
    "name": _nullable(_STRING),
    "shape": _SHAPE,
    "dtype": _DTYPE,
    "source": _nullable(_STRING),
    "origin": _answer({"node": _NATURAL, "role": _STRING, "op": _STRING}),
}

_SUMMARY: Final[Document] = {
    "id": {"type": "string", "pattern": "^ses_"},
    "name": _nullable(_STRING),
    "version": _NATURAL,
    "outputs_version": _NATURAL,
    "inputs": _array(_ref("Input")),
    "outputs": _map(_NATURAL),
    "created_at": _TIME,
    "updated_at": _TIME,
}

_KEPT: Final[Document] = {
    "name": _ref("Name"),
    "dtype": _DTYPE,
    "shape": _SHAPE,
    "bytes": _NATURAL,
    "version": _NATURAL,
    "updated_at": _TIME,
}

COMPONENTS: Final[Document] = {
    "Name": {
        "type": "string",
        "pattern": "^[A-Za-z_][A-Za-z0-9_./:-]*$",
        "minLength": 1,
        "maxLength": 200,
    },
    "SessionName": {
        "type": "string",
        "description": "A Name without / and :, that neither begins with ses_ nor ends in .vjp "
        "or .jvp.",
        "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$",
        "minLength": 1,
        "maxLength": 200,
    },
    "Ref": {
        "description": "A value: by id, by name, or by a handle whose shape is checked.",
        "anyOf": [
            _NATURAL,
            _STRING,
            _object({"id": _NATURAL, "shape": _SHAPE}, ("id", "shape")),
        ],
    },
    "Tensor": {
        "description": "A number, nested lists, or an object with flat or nested `data`, or "
        "`base64` of little-endian bytes, or the name of a resident `tensor`. Non-finite numbers "
        "are strings.",
        "anyOf": [
            {"type": ["number", "boolean"]},
            {"enum": ["NaN", "Infinity", "-Infinity"]},
            {"type": "array"},
            _object({"dtype": _DTYPE, "shape": _SHAPE, "data": {}}, ("data",)),
            _object(
                {
                    "dtype": _DTYPE,
                    "shape": _SHAPE,
                    "base64": {"type": "string", "contentEncoding": "base64"},
                },
                ("base64",),
            ),
            _object({"tensor": _ref("Name")}, ("tensor",)),
        ],
    },
    "Resident": _ref("Tensor"),
    "Kept": _answer(_KEPT),
    "TensorList": _answer({"tensors": _array(_answer(_KEPT)), "next_cursor": _nullable(_STRING)}),
    "ReadTensor": {"anyOf": [_ref("Encoded"), _ref("Kept")]},
    "Encoded": {
        "type": "object",
        "properties": {
            "dtype": _DTYPE,
            "shape": _SHAPE,
            "data": {"type": "array"},
            "base64": {"type": "string", "contentEncoding": "base64"},
        },
        "required": ["dtype", "shape"],
    },
    "Binary": {"type": "string", "contentMediaType": BINARY},
    "InputSpec": _INPUT_SPEC,
    "SessionRequest": {
        "oneOf": [
            _object(
                {"name": _ref("SessionName"), "inputs": _array(_ref("InputSpec"))}, ("inputs",)
            ),
            _object(
                {
                    "name": _ref("SessionName"),
                    "from": _object({"session": _STRING, "version": _NATURAL}, ("session",)),
                },
                ("from",),
            ),
        ]
    },
    "AppendRequest": _object({"nodes": _array(_ref("Entry"))}, ("nodes",)),
    "OutputsRequest": _object({"outputs": _map(_ref("Ref"))}, ("outputs",)),
    "ForwardRequest": _object(_RUN),
    "VjpRequest": _object({**_RUN, **_VJP}),
    "JvpRequest": _object({**_RUN, **_JVP}),
    "ExecuteRequest": _object(
        {
            "inputs": _array(_ref("InputSpec")),
            "nodes": _array(_ref("Entry")),
            "outputs": _map(_ref("Ref")),
            "run": {
                "oneOf": [
                    _object({"mode": {"const": "forward"}, **_RUN}, ("mode",)),
                    _object({"mode": {"const": "vjp"}, **_RUN, **_VJP}, ("mode",)),
                    _object({"mode": {"const": "jvp"}, **_RUN, **_JVP}, ("mode",)),
                ]
            },
        },
        ("inputs", "nodes", "run"),
    ),
    "Transform": {"oneOf": list(_TRANSFORMS.values())},
    "TransformRequest": {"oneOf": list(_TRANSFORMS.values())},
    "Input": _answer(
        {
            "id": _NATURAL,
            "name": _STRING,
            "shape": _SHAPE,
            "dtype": _DTYPE,
            "differentiable": {"type": "boolean"},
        }
    ),
    "Node": _answer(_NODE, "origin"),
    "Value": {"anyOf": [_ref("Input"), _ref("Node")]},
    "Session": _answer(
        {
            **_SUMMARY,
            "nodes": _array(_ref("Node")),
            "expires_at": {
                **_nullable(_TIME),
                "description": "When it ends unless it is used before; null: it never does.",
            },
        }
    ),
    "SessionList": _answer(
        {"sessions": _array(_answer(_SUMMARY)), "next_cursor": _nullable(_STRING)}
    ),
    "Appended": _answer({"version": _NATURAL, "nodes": _array(_ref("Node"))}),
    "Outputs": _answer(
        {"outputs": _map(_NATURAL), "outputs_version": _NATURAL, "version": _NATURAL}
    ),
    "RunResponse": _answer(
        {
            "outputs": _map(_ref("Encoded")),
            "gradients": _map(_ref("Encoded")),
            "tangents": _map(_ref("Encoded")),
            "stored": _map(_ref("Kept")),
        },
        "gradients",
        "tangents",
        "stored",
    ),
    "JvpAvailability": _answer(
        {"available": {"type": "boolean"}, "reverse_only": {"type": "array"}}
    ),
    "Op": _answer(
        {
            "name": _STRING,
            "kind": {"enum": ["primitive", "composite"]},
            "operands": _array(
                _answer(
                    {
                        "name": _STRING,
                        "variadic": {"type": "boolean"},
                        "optional": {"type": "boolean"},
                    }
                )
            ),
            "attributes": {"type": "object", "description": "A JSON schema."},
            "graphm": _nullable(_STRING),
            "aliases": _array(_STRING),
            "jvp_availability": {"enum": ["implemented", "reverse_only"]},
            "docs": _STRING,
        }
    ),
    "OpList": _answer({"ops": _array(_ref("Op")), "reverse_only": _array(_STRING)}),
    "Error": _answer(
        {
            "type": _STRING,
            "code": {"enum": sorted(STATUS)},
            "title": _STRING,
            "status": _INTEGER,
            "meaning": _STRING,
            "facts": _array(_STRING),
            "advice": _STRING,
        }
    ),
    "Limits": _map({"type": ["number", "null"]}),
    "State": _answer({"status": _STRING}),
    "Problem": {
        "description": "RFC 9457, with a stable `code` and the facts of that code beside it.",
        "type": "object",
        "properties": {
            "type": _STRING,
            "title": _STRING,
            "status": _INTEGER,
            "detail": _STRING,
            "code": {"enum": sorted(STATUS)},
            "request_id": _STRING,
        },
        "required": ["type", "title", "status", "detail", "code", "request_id"],
    },
}


def _parameter(
    place: str, name: str, schema: Document, text: str, example: object = None
) -> Document:
    parameter = {
        "in": place,
        "name": name,
        "required": place == "path",
        "schema": schema,
        "description": text,
    }
    return parameter if example is None else {**parameter, "example": example}


PARAMETERS: Final[Document] = {
    "sid": _parameter("path", "sid", _STRING, "A session's id or name.", "example"),
    "ref": _parameter("path", "ref", _STRING, "A value's id or name.", "h"),
    "const": _parameter("path", "ref", _STRING, "The id or name of a const.", "target"),
    "op": _parameter("path", "op", _STRING, "An op's name or alias.", "tanh"),
    "error": _parameter("path", "error", _STRING, "As in `type`.", "shape-mismatch"),
    "tensor": _parameter(
        "path",
        "name",
        _ref("Name"),
        "A resident tensor's name; slashes may be left as they are.",
        "w",
    ),
    "data": _parameter(
        "query",
        "data",
        {"type": "boolean"},
        "False for what there is to say of it, without its data.",
    ),
    "ifMatchTensor": _parameter(
        "header",
        "If-Match",
        _STRING,
        'Act only if the tensor is at this version, as in `"3"`, or (`*`) there at all.',
    ),
    "ifNoneMatch": _parameter(
        "header",
        "If-None-Match",
        _STRING,
        'Act only if the tensor is not at this version, as in `"3"`, or (`*`) not there.',
    ),
    "since": _parameter("query", "since", _NATURAL, "List only nodes newer than this version."),
    "limit": _parameter(
        "query",
        "limit",
        {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        "The most entries to list.",
    ),
    "cursor": _parameter("query", "cursor", _STRING, "The `next_cursor` of the page before."),
    "shape": _parameter(
        "query",
        "shape",
        {"type": "string", "pattern": "^([0-9]{1,18}(,[0-9]{1,18}){0,31})?$"},
        "The shape that the value should have, as `2,3`; empty for a scalar.",
        "2",
    ),
    "attr": _parameter(
        "query", "attr", _STRING, "Which array attribute, where the node has more than one."
    ),
    "ifMatch": _parameter(
        "header",
        "If-Match",
        _STRING,
        'Act only if the session is at this version, as in `"3"`.',
    ),
    "idempotencyKey": _parameter(
        "header",
        "Idempotency-Key",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "A retry under the same key gets the same answer and changes nothing again.",
    ),
}
