"""The graph: types, nodes, values, and the builder that grows one.

A graph is a list in single static assignment order: inputs have ids 0..m-1, node k has id m+k and
refers only to smaller ids. Ids never change and nodes are never edited, so a prefix of the list is
a graph too. This file knows nothing of any particular op: an op is whatever has a name, a typing
rule and a canonical key.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from . import errors

DTYPES = ("float32", "float64", "int64", "bool")
FLOATS = ("float32", "float64")
MAX_RANK = 32


class Type(NamedTuple):
    """The static type of a value: sizes per axis (``()`` is a scalar) and a dtype name.

    A tuple: types are hashed and compared for each append.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a dense array of this type."""
        return self.size * ITEMSIZE[self.dtype]

    @property
    def extent(self) -> int:
        """Bytes with sizes of zero counted as one: what array libraries have to address."""
        return math.prod([size or 1 for size in self.shape]) * ITEMSIZE[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether values of this type carry derivatives."""
        return self.dtype in FLOATS

    def with_shape(self, shape: Iterable[int]) -> Type:
        """The same dtype with other sizes."""
        return Type(tuple(shape), self.dtype)

    def with_dtype(self, dtype: str) -> Type:
        """The same sizes with another dtype."""
        return Type(self.shape, dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


ITEMSIZE = {"float32": 4, "float64": 8, "int64": 8, "bool": 1}
"""Bytes of an element."""


def type_of(array: np.ndarray[Any, Any]) -> Type:
    """The type of a NumPy array."""
    return Type(tuple(array.shape), array.dtype.name)


@dataclass(frozen=True, slots=True)
class Input:
    """A named argument of a graph. Only a differentiable float input has tangents and gradients."""

    name: str
    type: Type
    differentiable: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a derived node came from: the node it serves, in which role, and that node's op."""

    node: int
    role: str  # "primal", "tangent", "cotangent"
    op: str

    def serving(self, role: str) -> Origin:
        """The same node, served in another role."""
        return Origin(self.node, role, self.op)


class OpLike(Protocol):
    """What a graph asks of an op; the declarations are in `gradwire_engine.ops`."""

    name: ClassVar[str]
    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Canonical text of name and attributes: equal keys, equal meaning."""

    @property
    def structure(self) -> str:
        """As `key`, without the attributes that a kernel takes as arguments."""

    def typing(self, *types: Any) -> Type:
        """The result's type, or an error that names op and operand."""

    def expand(self, *operands: Any) -> Value:
        """A composite's meaning in terms of other ops."""

    def label(self) -> str:
        """The attributes as a person reads them."""


class Node(NamedTuple):
    """One op applied to earlier values. A tuple: one is made for each append."""

    op: Any  # an Op; typed loosely because ops are declared one layer above
    inputs: tuple[int, ...]
    type: Type
    name: str | None = None
    source: str | None = None
    origin: Origin | None = None


@dataclass(frozen=True)
class Graph:
    """An immutable graph. `outputs` maps output names to value ids, in order."""

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """Number of values: inputs and nodes."""
        return len(self.inputs) + len(self.nodes)

    def type_of(self, id: int) -> Type:
        """The type of value `id`."""
        m = len(self.inputs)
        return self.inputs[id].type if id < m else self.nodes[id - m].type

    def name_of(self, id: int) -> str | None:
        """The name of value `id`, if it has one."""
        m = len(self.inputs)
        return self.inputs[id].name if id < m else self.nodes[id - m].name

    def input_id(self, name: str) -> int | None:
        """The id of the input called `name`, or None."""
        return self._input_ids.get(name)

    @cached_property
    def _input_ids(self) -> dict[str, int]:
        return {spec.name: i for i, spec in enumerate(self.inputs)}

    @cached_property
    def names(self) -> dict[str, int]:
        """Every named value."""
        named = dict(self._input_ids)
        m = len(self.inputs)
        named.update({n.name: m + k for k, n in enumerate(self.nodes) if n.name is not None})
        return named

    @cached_property
    def content_hash(self) -> str:
        """Equal for graphs that compute the same under the same names, constants included."""
        return _digest(self, lambda op: op.key, names=True)

    @cached_property
    def structure_hash(self) -> str:
        """Equal for graphs that one compiled plan serves: names and kernel arguments left out."""
        return _digest(self, lambda op: op.structure, names=False)

    def source_of(self, id: int) -> str | None:
        """Who wrote value `id`, if it is a node and its caller said so."""
        m = len(self.inputs)
        return None if id < m else self.nodes[id - m].source

    def origin_of(self, id: int) -> Origin | None:
        """Where value `id` came from; an input comes from itself."""
        m = len(self.inputs)
        return Origin(id, "primal", "input") if id < m else self.nodes[id - m].origin

    def with_outputs(self, outputs: Iterable[tuple[str, int]]) -> Graph:
        """The same nodes, other outputs."""
        return Graph(self.inputs, self.nodes, tuple(outputs))

    def reachable(self, roots: Iterable[int]) -> list[bool]:
        """For each value, whether any of `roots` depends on it (roots included)."""
        seen = [False] * self.size
        for root in roots:
            seen[root] = True
        m = len(self.inputs)
        for k in range(len(self.nodes) - 1, -1, -1):
            if seen[m + k]:
                for i in self.nodes[k].inputs:
                    seen[i] = True
        return seen

    def dependents(self, sources: Iterable[int]) -> list[bool]:
        """For each value, whether it depends on any of `sources` (sources included)."""
        seen = [False] * self.size
        for source in sources:
            seen[source] = True
        m = len(self.inputs)
        for k, node in enumerate(self.nodes):
            seen[m + k] = seen[m + k] or any(seen[i] for i in node.inputs)
        return seen

    def __str__(self) -> str:
        return print_graph(self)


def _digest(graph: Graph, op_text: Any, *, names: bool) -> str:
    text = hashlib.sha256()
    # Names and sources are the caller's text: quoted, none can pass for the text of something else.
    for spec in graph.inputs:
        name = repr(spec.name) if names else ""
        text.update(f"{name}:{spec.type}:{spec.differentiable};".encode())
    for node in graph.nodes:
        label = f"{node.name!r}:{node.source!r}" if names else ""
        text.update(f"{label}{op_text(node.op)}{node.inputs}{node.type};".encode())
    for name, id in graph.outputs:
        text.update(f"{repr(name) if names else ''}={id};".encode())
    return text.hexdigest()


def print_graph(graph: Graph) -> str:
    """A graph as text, one line a value; the same graph always prints the same.

    Example:
        ```
        graph(%0 x: float32[3])
          %1 = tanh(%0) : float32[3]    # h
          return y=%1
        ```
    """
    args = ", ".join(f"%{i} {spec.name}: {spec.type}" for i, spec in enumerate(graph.inputs))
    lines = [f"graph({args})"]
    for k, node in enumerate(graph.nodes, start=len(graph.inputs)):
        operands = ", ".join(f"%{i}" for i in node.inputs)
        attributes = node.op.label()
        call = f"{node.op.name}({operands})" + (f" {{{attributes}}}" if attributes else "")
        comment = f"    # {node.name}" if node.name else ""
        lines.append(f"  %{k} = {call} : {node.type}{comment}")
    lines.append("  return " + ", ".join(f"{name}=%{id}" for name, id in graph.outputs))
    return "\n".join(lines)


@dataclass
class GraphBuilder:
    """A graph under construction: apply ops, get values.

    With `lowered` set, a composite is replaced by its expansion the moment it is applied, so that
    the result holds primitives only; rules and transforms work in such builders. `origin` and
    `source` are stamped on every node made while they are set.
    """

    inputs: list[Input] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    lowered: bool = False
    origin: Origin | None = None
    source: str | None = None

    def input(self, spec: Input) -> Value:
        """Declare the next input; inputs come before all nodes."""
        if self.nodes:
            raise ValueError("inputs are declared before the first node")
        self.inputs.append(spec)
        return Value(self, len(self.inputs) - 1, spec.type)

    def apply(self, op: OpLike, *operands: Value, name: str | None = None) -> Value:
        """Append `op` applied to `operands`; typing errors propagate and nothing is appended."""
        if self.lowered and op.kind == "composite":
            return op.expand(*operands) if operands else op.expand(self)
        result = op.typing(*(v.type for v in operands))
        return self.push(op, tuple(v.id for v in operands), result, name)

    def push(self, op: OpLike, inputs: tuple[int, ...], type: Type, name: str | None) -> Value:
        """Append a node whose type is already known."""
        self.nodes.append(Node(op, inputs, type, name, self.source, self.origin))
        return Value(self, len(self.inputs) + len(self.nodes) - 1, type)

    def rename(self, id: int, name: str) -> None:
        """Give a node a name, as when it now stands for a named one of another graph."""
        index = id - len(self.inputs)
        self.nodes[index] = self.nodes[index]._replace(name=name)

    def value(self, id: int) -> Value:
        """A handle to an existing value."""
        m = len(self.inputs)
        return Value(self, id, self.inputs[id].type if id < m else self.nodes[id - m].type)

    def graph(self, outputs: Iterable[tuple[str, Value | int]]) -> Graph:
        """The finished graph."""
        named = ((n, v if isinstance(v, int) else v.id) for n, v in outputs)
        return Graph(tuple(self.inputs), tuple(self.nodes), tuple(named))


class Operators(Protocol):
    """How Python's operators on values become ops; registered by `gradwire_engine.ops`."""

    def binary(self, name: str, a: Value, b: Any) -> Value:
        """Apply the elementwise op `name`, broadcasting as NumPy does."""

    def reflected(self, name: str, a: Any, b: Value) -> Value:
        """As `binary`, where the first operand is a Python number."""

    def negate(self, a: Value) -> Value:
        """Apply `neg`."""


operators: Operators


def register_operators(implementation: Operators) -> None:
    """Called once by the ops package, which alone knows what `a + b` means."""
    global operators
    operators = implementation


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A typed handle to one value of a builder; Python operators append ops, broadcasting."""

    builder: GraphBuilder
    id: int
    type: Type

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes per axis."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """Dtype name."""
        return self.type.dtype

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.type.shape)

    def __add__(self, other: Any) -> Value:
        return operators.binary("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return operators.reflected("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return operators.binary("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return operators.reflected("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return operators.binary("mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return operators.reflected("mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        return operators.binary("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return operators.reflected("div", other, self)

    def __pow__(self, other: Any) -> Value:
        return operators.binary("pow", self, other)

    def __lt__(self, other: Any) -> Value:
        return operators.binary("less", self, other)

    def __le__(self, other: Any) -> Value:
        return operators.binary("less_equal", self, other)

    def __gt__(self, other: Any) -> Value:
        return operators.binary("greater", self, other)

    def __ge__(self, other: Any) -> Value:
        return operators.binary("greater_equal", self, other)

    def __and__(self, other: Value) -> Value:
        return operators.binary("logical_and", self, other)

    def __or__(self, other: Value) -> Value:
        return operators.binary("logical_or", self, other)

    def __neg__(self) -> Value:
        return operators.negate(self)


def import_nodes(
    builder: GraphBuilder,
    graph: Graph,
    arguments: Sequence[Value],
    keep: Sequence[bool] | None = None,
    *,
    names: bool = False,
) -> dict[int, Value]:
    """Copy a graph's nodes into `builder`, its inputs replaced by `arguments`.

    Args:
        builder: Where the nodes go.
        graph: What is copied.
        arguments: One value for each input of `graph`.
        keep: Per value id, whether to copy it; all by default.
        names: Whether copies keep their node names.

    Returns:
        The new value for each copied id (and each input's id).
    """
    m = len(graph.inputs)
    env: dict[int, Value] = dict(enumerate(arguments))
    saved = builder.origin, builder.source
    for k, node in enumerate(graph.nodes, start=m):
        if keep is not None and not keep[k]:
            continue
        builder.origin, builder.source = node.origin, node.source
        operands = [env[i] for i in node.inputs]
        name = node.name if names else None
        if builder.lowered and node.op.kind == "composite":
            env[k] = builder.apply(node.op, *operands)
        else:
            env[k] = builder.push(node.op, tuple(v.id for v in operands), node.type, name)
    builder.origin, builder.source = saved
    return env


def format_mapping(items: Mapping[str, object]) -> str:
    """``a=1 b=[2,3]``: attributes as the printer shows them."""
    return " ".join(f"{k}={_text(v)}" for k, v in items.items())


def _text(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(value)


def check_shape(path: str, shape: Sequence[object]) -> tuple[int, ...]:
    """A declared shape as a tuple; raises `InvalidShape` for a negative size or rank over 32."""
    if len(shape) > MAX_RANK:
        raise errors.InvalidShape(
            path=path, value=list(shape), reason=f"at most {MAX_RANK} axes are allowed"
        )
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise errors.InvalidShape(
                path=path, value=list(shape), reason="sizes are integers of at least 0"
            )
    return tuple(shape)  # type: ignore[arg-type] # every element was just checked
