"""The messages of the contract as types: what each request may hold and what each answer brings.

These are descriptions for readers and type checkers, nothing is validated here. A `TensorDocument`
stands for every JSON form of a tensor; in a binary message the tensors are left out of the document
and travel under their paths instead (`inputs/x`, `nodes/3/attrs/value`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NotRequired, Required, TypeAlias, TypedDict

from gradwire.wire import safetensors

__all__ = [
    "BINARY",
    "IDEMPOTENCY_KEY",
    "JSON",
    "MAX_SOURCE",
    "PROBLEM",
    "REQUEST_ID",
    "TENSOR_GROUPS",
    "TIER",
    "AppendRequest",
    "AppendResponse",
    "Dtype",
    "ExecuteRequest",
    "ExecuteRun",
    "ForkOrigin",
    "ForwardRequest",
    "HandleDocument",
    "InputDocument",
    "InputSpec",
    "JvpAvailability",
    "JvpRequest",
    "NodeDocument",
    "NodeEntry",
    "OpDocument",
    "OperandDocument",
    "OriginDocument",
    "OutputsRequest",
    "Ref",
    "ResidentDocument",
    "ResidentList",
    "RunOptions",
    "RunResponse",
    "SessionDocument",
    "SessionList",
    "SessionRequest",
    "SessionSummary",
    "TensorDocument",
    "TensorFields",
    "TransformDocument",
    "TransformRequest",
    "ValueDocument",
    "VjpRequest",
]

JSON: Final = "application/json"
BINARY: Final = safetensors.MEDIA_TYPE
PROBLEM: Final = "application/problem+json"

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
REQUEST_ID: Final = "X-Request-Id"
TIER: Final = "Gradwire-Tier"

MAX_SOURCE: Final = 300
"""The longest `source` of a node, in characters."""

TENSOR_GROUPS: Final = ("inputs", "cotangents", "tangents", "outputs", "gradients")
"""The fields of run messages whose members are tensors: paths are `<group>/<name>`."""

Dtype = Literal["float32", "float64", "int64", "bool"]


class HandleDocument(TypedDict):
    """A typed reference; the server compares `shape` with the value's."""

    id: int
    shape: Sequence[int]


Ref: TypeAlias = int | str | HandleDocument


class TensorFields(TypedDict, total=False):
    """The object forms of a tensor; exactly one of `data`, `base64` and `tensor`."""

    dtype: Dtype
    shape: Sequence[int]
    data: object
    base64: str
    tensor: str


TensorDocument: TypeAlias = TensorFields | float | bool | str | Sequence[object]


class InputSpec(TypedDict, total=False):
    """One declared input of a new session."""

    name: Required[str]
    shape: Required[Sequence[int]]
    dtype: Dtype
    differentiable: bool


class ForkOrigin(TypedDict):
    """Where a fork branches off."""

    session: str
    version: NotRequired[int]


# `from` is a keyword, hence the call.
SessionRequest = TypedDict(
    "SessionRequest",
    {"name": str, "inputs": Sequence[InputSpec], "from": ForkOrigin},
    total=False,
)
"""A new session: from `inputs`, or a fork `from` another."""


class InputDocument(TypedDict):
    """An input of a session, as answered."""

    id: int
    name: str
    shape: list[int]
    dtype: Dtype
    differentiable: bool


class OriginDocument(TypedDict):
    """Which primal value a derived node came from, and as what."""

    node: int
    role: str
    op: str


class NodeEntry(TypedDict, total=False):
    """One op to append."""

    op: Required[str]
    inputs: Required[Sequence[Ref]]
    attrs: Mapping[str, object]
    name: str
    source: str


class NodeDocument(TypedDict):
    """One node of a session, as answered."""

    id: int
    op: str
    inputs: list[int]
    attrs: dict[str, object]
    name: str | None
    shape: list[int]
    dtype: Dtype
    source: NotRequired[str | None]
    origin: NotRequired[OriginDocument | None]


class AppendRequest(TypedDict):
    """Ops to append, all or none."""

    nodes: Sequence[NodeEntry]


class AppendResponse(TypedDict):
    """The version after an append, and the new values."""

    version: int
    nodes: list[NodeDocument]


class ValueDocument(TypedDict, total=False):
    """One value: an input or a node."""

    id: Required[int]
    name: Required[str | None]
    shape: Required[list[int]]
    dtype: Required[Dtype]
    op: str
    inputs: list[int]
    attrs: dict[str, object]


class SessionSummary(TypedDict):
    """A session in a list."""

    id: str
    name: str | None
    version: int
    created_at: str
    updated_at: str


class SessionDocument(SessionSummary):
    """A whole session."""

    outputs_version: int
    inputs: list[InputDocument]
    nodes: list[NodeDocument]
    outputs: dict[str, int]
    expires_at: str | None
    """When it ends unless it is used before; None: it never does."""


class SessionList(TypedDict):
    """One page of a caller's sessions."""

    sessions: list[SessionSummary]
    next_cursor: str | None


class OutputsRequest(TypedDict):
    """The outputs to declare, by name."""

    outputs: Mapping[str, Ref]


class TransformDocument(TypedDict, total=False):
    """One graph-to-graph transform; which fields apply depends on `transform`."""

    transform: Required[Literal["vjp", "jvp", "vmap", "linearize"]]
    outputs: Sequence[Ref]
    wrt: Sequence[str]
    axis_size: int
    in_axes: Mapping[str, int | None]
    inputs: Mapping[str, TensorDocument]


class TransformRequest(TransformDocument, total=False):
    """A transform whose result is kept as a new session."""

    name: str


class ResidentDocument(TypedDict):
    """What a server says of a resident tensor; `version` grows with its owner's every write."""

    name: str
    dtype: Dtype
    shape: list[int]
    bytes: int
    version: int
    updated_at: str


class ResidentList(TypedDict):
    """One page of a caller's resident tensors."""

    tensors: list[ResidentDocument]
    next_cursor: str | None


class RunOptions(TypedDict, total=False):
    """What any run may carry.

    `store` names, by path, results that become resident tensors instead of being answered.
    """

    transforms: Sequence[TransformDocument]
    in_axes: Mapping[str, int | None]
    reduce: Mapping[str, Literal["sum", "mean"]]
    nan_policy: Literal["propagate", "error"]
    deadline_ms: float
    tier: Literal["auto", "compiled", "interpreted"]
    store: Mapping[str, str]


class ForwardRequest(RunOptions, total=False):
    """A forward run."""

    inputs: Mapping[str, TensorDocument]
    outputs: Sequence[Ref]


class VjpRequest(ForwardRequest, total=False):
    """A vector-Jacobian product."""

    cotangents: Mapping[str, TensorDocument]
    wrt: Sequence[str]


class JvpRequest(ForwardRequest, total=False):
    """A Jacobian-vector product."""

    tangents: Mapping[str, TensorDocument]
    wrt: Sequence[str]


class ExecuteRun(RunOptions, total=False):
    """The run of an `ExecuteRequest`."""

    mode: Required[Literal["forward", "vjp", "jvp"]]
    inputs: Mapping[str, TensorDocument]
    outputs: Sequence[Ref]
    cotangents: Mapping[str, TensorDocument]
    tangents: Mapping[str, TensorDocument]
    wrt: Sequence[str]


class ExecuteRequest(TypedDict, total=False):
    """A whole graph and its run; nothing is kept."""

    inputs: Required[Sequence[InputSpec]]
    nodes: Required[Sequence[NodeEntry]]
    outputs: Mapping[str, Ref]
    run: Required[ExecuteRun]


class RunResponse(TypedDict, total=False):
    """The results of a run; which groups are there depends on the mode."""

    outputs: Required[dict[str, TensorDocument]]
    gradients: dict[str, TensorDocument]
    tangents: dict[str, TensorDocument]
    stored: dict[str, ResidentDocument]


class JvpAvailability(TypedDict):
    """Whether a graph can be run forward-mode, and what stands in the way."""

    available: bool
    reverse_only: list[str]


class OperandDocument(TypedDict):
    """An operand of an op in the catalogue."""

    name: str
    variadic: bool
    optional: bool


class OpDocument(TypedDict):
    """An op of the catalogue; `attributes` is a JSON schema."""

    name: str
    kind: Literal["primitive", "composite"]
    operands: list[OperandDocument]
    attributes: dict[str, object]
    graphm: str | None
    aliases: list[str]
    jvp_availability: Literal["implemented", "reverse_only"]
    docs: str
