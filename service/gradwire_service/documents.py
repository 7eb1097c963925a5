"""Graphs as documents: how inputs and nodes look in answers, and how nodes are kept in the log.

In an answer a tensor attribute of up to `MAX_INLINE` elements is an array, which the encoder writes
in the form that the caller prefers; a larger one is `{"dtype", "shape", "bytes", "sha256"}`. The
log keeps the same documents as JSON: small arrays as base64, large ones as blobs named by that
SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson

from gradwire.wire.tensors import decode_tensor, encode_tensor
from gradwire_engine import Entry, Graph, Input, Node, Type
from gradwire_engine.ir import Origin
from gradwire_engine.ops.attributes import Literal

from .blobs import digest
from .store import LogEntry, SessionRow

__all__ = [
    "MAX_INLINE",
    "freeze",
    "graph_documents",
    "input_documents",
    "inputs_of",
    "load_array",
    "log_entry",
    "node_document",
    "session_document",
    "session_summary",
    "thaw",
    "to_entry",
]

MAX_INLINE = 1000
"""The most elements that a tensor attribute may have and still stand in a session's document."""

Array = np.ndarray[Any, Any]
Document = dict[str, Any]


# -- inputs and sessions ---------------------------------------------------------------------------


def input_documents(inputs: Iterable[Input]) -> list[Document]:
    """The inputs of a graph, as answered and as stored."""
    return [
        {
            "id": id,
            "name": spec.name,
            "shape": list(spec.type.shape),
            "dtype": spec.type.dtype,
            "differentiable": spec.differentiable,
        }
        for id, spec in enumerate(inputs)
    ]


def inputs_of(documents: Iterable[Document]) -> tuple[Input, ...]:
    """The inputs that documents stand for."""
    return tuple(
        Input(spec["name"], Type(tuple(spec["shape"]), spec["dtype"]), spec["differentiable"])
        for spec in documents
    )


def session_summary(row: SessionRow) -> Document:
    """A session without its nodes."""
    return {
        "id": row.id,
        "name": row.name,
        "version": row.version,
        "outputs_version": row.outputs_version,
        "inputs": row.inputs,
        "outputs": row.outputs,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def session_document(
    row: SessionRow, nodes: Sequence[Document], expires_at: str | None
) -> Document:
    """A whole session, or one with its newest nodes only."""
    summary = session_summary(row)
    head = {name: summary[name] for name in ("id", "name", "version", "outputs_version", "inputs")}
    rest = {name: value for name, value in summary.items() if name not in head}
    return {**head, "nodes": list(nodes), **rest, "expires_at": expires_at}


# -- nodes -----------------------------------------------------------------------------------------


def node_document(node: Node, id: int) -> Document:
    """A node as answered; its arrays are still whole, whatever their size."""
    document: Document = {
        "id": id,
        "op": node.op.name,
        "inputs": list(node.inputs),
        "attrs": node.op.attrs(),
        "name": node.name,
        "shape": list(node.type.shape),
        "dtype": node.type.dtype,
        "source": node.source,
    }
    if node.origin is not None:
        origin = node.origin
        document["origin"] = {"node": origin.node, "role": origin.role, "op": origin.op}
    return document


def graph_documents(graph: Graph) -> list[Document]:
    """The nodes of a whole graph."""
    first = len(graph.inputs)
    return [node_document(node, first + k) for k, node in enumerate(graph.nodes)]


def log_entry(document: Document) -> tuple[Document, LogEntry]:
    """A node's document with large arrays replaced by their summaries, and its log entry."""
    if not any(map(_is_large, document["attrs"].values())):
        return document, LogEntry(freeze(document))
    blobs: dict[str, Array] = {}
    attrs = {}
    for name, value in document["attrs"].items():
        if _is_large(value):
            sha256 = digest(value)
            blobs[sha256] = value
            attrs[name] = {
                "dtype": value.dtype.name,
                "shape": list(value.shape),
                "bytes": value.nbytes,
                "sha256": sha256,
            }
        else:
            attrs[name] = value
    answered = {**document, "attrs": attrs}
    return answered, LogEntry(freeze(answered), blobs)


def _is_large(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.size > MAX_INLINE


def freeze(document: Document) -> bytes:
    """A document as stored: JSON with its arrays in base64."""
    return orjson.dumps(document, default=_in_base64)


_in_base64 = partial(encode_tensor, form="base64")


def thaw(stored: bytes) -> Document:
    """The document that `freeze` stored: a node, or anything with a list of `nodes`."""
    document: Document = orjson.loads(stored)
    for node in document.get("nodes", (document,)):
        for name, value in node.get("attrs", {}).items():
            if isinstance(value, dict) and "base64" in value:
                node["attrs"][name] = decode_tensor(value, name, dtype=None, shape=None)
    return document


LoadBlob = Callable[[str, str, tuple[int, ...]], Array]


def load_array(value: Any, load_blob: LoadBlob) -> Array | None:
    """The array that an attribute of a thawed node is, whether inline or a blob; else None."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Mapping) and "sha256" in value:
        return load_blob(value["sha256"], value["dtype"], tuple(value["shape"]))
    return None


def to_entry(document: Document, load_blob: LoadBlob) -> Entry:
    """The append that makes this node again."""
    attrs: dict[str, Any] = {}
    for name, value in document["attrs"].items():
        array = load_array(value, load_blob)
        if array is None or array is value:
            attrs[name] = value
        else:  # a file that is mapped: it need neither be copied nor read
            attrs[name] = Literal.adopt(array, value["sha256"])
    return Entry(
        op=document["op"],
        inputs=tuple(document["inputs"]),
        attrs=attrs,
        name=document["name"],
        source=document["source"],
        origin=Origin(**document["origin"]) if "origin" in document else None,
    )
