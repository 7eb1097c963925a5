"""The op catalogue as documents, for `GET /v1/ops` and for the OpenAPI document."""

from __future__ import annotations

import inspect
from typing import Any

from gradwire_engine import ops
from gradwire_engine.errors import OpNotFound, UnknownOp

__all__ = ["attributes_schema", "catalogue_document", "find_op", "op_document"]

Document = dict[str, Any]


def attributes_schema(op: type[ops.Op]) -> Document:
    """JSON schema of an op's attributes."""
    properties: Document = {}
    for name, attribute in op.attributes.items():
        schema = dict(attribute.kind.schema())
        if not attribute.required and attribute.default is not None:
            schema["default"] = attribute.kind.unparse(attribute.default)
        properties[name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name, attribute in op.attributes.items() if attribute.required],
        "additionalProperties": False,
    }


def op_document(op: type[ops.Op]) -> Document:
    """One op as the catalogue shows it."""
    return {
        "name": op.name,
        "kind": op.kind,
        "operands": [
            {"name": o.name, "variadic": o.variadic, "optional": o.optional} for o in op.operands
        ],
        "attributes": attributes_schema(op),
        "graphm": op.graphm,
        "aliases": list(op.aliases),
        "jvp_availability": op.jvp_availability(),
        "docs": inspect.cleandoc(op.__doc__ or ""),
    }


def catalogue_document() -> Document:
    """The whole catalogue, and GraphM's list of ops that have no forward mode."""
    found = list(ops.CATALOGUE.values())
    return {
        "ops": [op_document(op) for op in found],
        "reverse_only": [op.name for op in found if op.reverse_only],
    }


def find_op(name: str) -> type[ops.Op]:
    """The op of that name or alias.

    Raises:
        OpNotFound: There is none.
    """
    try:
        return ops.find(name)
    except UnknownOp as error:
        raise OpNotFound(op=name[:200], suggestions=error.suggestions or []) from None
