"""What there is to look up, as documents: the ops, and what each error means.

The first serve `GET /v1/ops` and the OpenAPI document, the second docs/errors.md and
`GET /errors/{name}`, which is where the `type` of a problem leads.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from functools import cache
from importlib import resources
from typing import Any

from gradwire.wire.errors import STATUS, problem
from gradwire_engine import errors, ops
from gradwire_engine.errors import EngineError, OpNotFound, UnknownOp

from .errors import RouteNotFound, close_matches

__all__ = [
    "advice",
    "attributes_schema",
    "catalogue_document",
    "error_document",
    "find_error",
    "find_op",
    "op_document",
]

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


@cache
def advice() -> dict[str, str]:
    """What to do about each error, by code, in Markdown."""
    text = resources.files(__package__).joinpath("advice.toml").read_text("utf-8")
    return tomllib.loads(text)


def find_error(name: str) -> str:
    """The code that a problem's `type` names, with dashes (`shape-mismatch`) or as it is.

    Raises:
        RouteNotFound: There is none of that name.
    """
    code = name.replace("-", "_")
    if code not in STATUS:
        names = [known.replace("_", "-") for known in STATUS]
        close = [f"/errors/{known}" for known in close_matches(name.replace("_", "-"), names)]
        raise RouteNotFound(path=f"/errors/{name}"[:300], suggestions=close)
    return code


def error_document(code: str) -> Document:
    """What an error code means and which facts come with it, and what to do about it."""
    kind = errors.catalogue()[code]
    named = problem(code, STATUS[code], "", {})
    return {
        "type": named["type"],
        "code": code,
        "title": named["title"],
        "status": named["status"],
        "meaning": " ".join(inspect.cleandoc(kind.__doc__ or "").split()),
        "facts": _facts(kind),
        "advice": re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", advice()[code]),
    }


def _facts(kind: type[EngineError]) -> list[str]:
    """The facts of an error, without those that say where."""
    annotated = [name for cls in reversed(kind.__mro__) for name in inspect.get_annotations(cls)]
    here = {"node_index", "source", "code", "template", "abstract", "args"}
    return [name for name in dict.fromkeys(annotated) if name not in here]
