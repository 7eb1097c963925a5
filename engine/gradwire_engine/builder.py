"""The builder that users grow: a graph that only ever gains nodes, entry by checked entry.

This is GraphM's state: a context of inputs followed by nodes, handles that are checked when they
are used, and a push that answers with the next id. A batch of entries is appended whole or not at
all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from . import errors
from .ir import DTYPES, Graph, Input, Node, Origin, Type, check_shape
from .limits import check_bytes, check_rank
from .ops import find
from .ops.base import Op
from .spelling import close_names

MAX_NAME = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./:\-]*")


@dataclass(frozen=True, slots=True)
class Handle:
    """A typed reference to a value, GraphM's `Var`: its id and the shape its holder believes."""

    id: int
    shape: tuple[int, ...]


Ref = int | str | Handle
"""How a value is named: by id, by name, or by a handle, which is checked."""


class Entry(NamedTuple):
    """One op to append. Tensor attributes are arrays; all others are as they came over the wire."""

    op: str
    inputs: tuple[Ref, ...] = ()
    attrs: Mapping[str, Any] | None = None
    name: str | None = None
    source: str | None = None
    origin: Origin | None = None


def check_name(name: str, longest: int = MAX_NAME, path: str | None = None) -> str:
    """A legal name; raises `InvalidName`, which `path` tells where the name stands."""
    if not 1 <= len(name) <= longest:
        reason = f"names have 1 to {longest} characters"
        raise errors.InvalidName(name=name[:300], reason=reason, path=path)
    if _NAME.fullmatch(name) is None:
        reason = "names hold letters, digits and _ . / : - and begin with a letter or _"
        raise errors.InvalidName(name=name, reason=reason, path=path)
    return name


def make_input(
    name: str, shape: Sequence[object], dtype: str, differentiable: bool | None, path: str
) -> Input:
    """An input as declared; `differentiable` defaults to whether the dtype is a float.

    Raises:
        InvalidShape, UnknownDtype, InvalidOption: `path` leads to the declaration.
    """
    sizes = check_shape(f"{path}/shape", shape)
    if dtype not in DTYPES:
        reason = f"dtypes are {', '.join(DTYPES)}"
        raise errors.UnknownDtype(path=f"{path}/dtype", value=dtype, reason=reason)
    declared = Type(sizes, dtype)
    if differentiable and not declared.is_float:
        raise errors.InvalidOption(
            path=f"{path}/differentiable", value=True, reason=f"{dtype} carries no derivative"
        )
    return Input(name, declared, declared.is_float if differentiable is None else differentiable)


class Builder:
    """A growing graph. Inputs have ids 0..m-1, node k has id m+k; nothing is ever edited.

    Args:
        inputs: The context that the graph starts from.
        memory_limit: Bytes that a single value may take.
        node_limit: How many nodes the graph may grow to.
        max_name: Longest legal name; derived graphs have longer ones.

    Raises:
        InvalidName, NameConflict, MemoryLimit: An input is not acceptable.
    """

    def __init__(
        self,
        inputs: Sequence[Input] = (),
        *,
        memory_limit: int | None = None,
        node_limit: int | None = None,
        max_name: int = MAX_NAME,
    ) -> None:
        self.inputs: tuple[Input, ...] = tuple(inputs)
        self.nodes: list[Node] = []
        self.memory_limit = memory_limit
        self.node_limit = node_limit
        self._names: dict[str, int] = {}
        for id, spec in enumerate(self.inputs):
            check_name(spec.name, max_name, f"inputs/{id}/name")
            if spec.name in self._names:
                raise errors.NameConflict(name=spec.name)
            check_bytes(spec.type, memory_limit)
            self._names[spec.name] = id

    # -- reading -----------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Number of nodes: the append token."""
        return len(self.nodes)

    @property
    def ctx_len(self) -> int:
        """Number of values, inputs and nodes: GraphM's context length."""
        return len(self.inputs) + len(self.nodes)

    @property
    def names(self) -> Mapping[str, int]:
        """Every named value."""
        return self._names

    def type_of(self, id: int) -> Type:
        """The type of value `id`, which must exist."""
        m = len(self.inputs)
        return self.inputs[id].type if id < m else self.nodes[id - m].type

    def name_of(self, id: int) -> str | None:
        """The name of value `id`, if it has one."""
        m = len(self.inputs)
        return self.inputs[id].name if id < m else self.nodes[id - m].name

    def source_of(self, id: int) -> str | None:
        """Who wrote value `id`, if it is a node and its caller said so."""
        m = len(self.inputs)
        return None if id < m else self.nodes[id - m].source

    def resolve(self, ref: Ref, *, op: str | None = None, operand: str | None = None) -> int:
        """The id that a reference means; `op` and `operand` say for whom, in errors.

        Raises:
            VarOutOfBounds, VarShapeMismatch, UnknownName: The reference does not hold.
        """
        if isinstance(ref, str):
            found = self._names.get(ref)
            if found is None:
                raise errors.UnknownName(
                    name=ref, suggestions=close_names(ref, self._names), op=op, operand=operand
                )
            return found
        id = ref.id if isinstance(ref, Handle) else ref
        if not 0 <= id < self.ctx_len:
            raise errors.VarOutOfBounds(id=id, ctx_len=self.ctx_len, op=op, operand=operand)
        if isinstance(ref, Handle) and self.type_of(id).shape != ref.shape:
            raise errors.VarShapeMismatch(
                id=id,
                expected=list(ref.shape),
                actual=list(self.type_of(id).shape),
                op=op,
                operand=operand,
                # While an entry is appended, its own source is the one to look at.
                source=None if op is not None else self.source_of(id),
            )
        return id

    def arg(self, index: int, shape: Sequence[int]) -> Handle:
        """A handle to input `index`, checked against `shape` (GraphM's `arg`).

        Raises:
            VarOutOfBounds, VarShapeMismatch: There is no such input, or it has another shape.
        """
        if not 0 <= index < len(self.inputs):
            raise errors.VarOutOfBounds(id=index, ctx_len=len(self.inputs))
        handle = Handle(index, tuple(shape))
        self.resolve(handle)
        return handle

    def args(self) -> VarList:
        """Handles to all inputs, in order (GraphM's `args`)."""
        return VarList(Handle(i, spec.type.shape) for i, spec in enumerate(self.inputs))

    def graph(self, outputs: Mapping[str, int] | None = None, version: int | None = None) -> Graph:
        """The graph as it stands, or as it stood at `version`.

        Without `outputs` the last node is the one output, under its name or its id.
        """
        nodes = tuple(self.nodes if version is None else self.nodes[:version])
        named = tuple(outputs.items()) if outputs else ()
        if not named and nodes:
            last = len(self.inputs) + len(nodes) - 1
            named = ((nodes[-1].name or str(last), last),)
        return Graph(self.inputs, nodes, named)

    # -- growing -----------------------------------------------------------------------------------

    def push(
        self,
        op: Op,
        inputs: Sequence[Ref],
        name: str | None = None,
        source: str | None = None,
    ) -> Handle:
        """Append one op that is already made, and answer with its handle (GraphM's `push`)."""
        ids = self._operands(type(op), inputs)
        node = self._typed(op, ids, Entry(op.name, tuple(inputs), None, name, source), MAX_NAME)
        self._commit(node)
        return Handle(self.ctx_len - 1, node.type.shape)

    def append(self, entries: Sequence[Entry], *, max_name: int = MAX_NAME) -> list[Node]:
        """Append entries, all or none; later ones may refer to earlier ones.

        Raises:
            EngineError: The first thing wrong with the first bad entry, `node_index` telling which.
                The builder is exactly as it was.
        """
        before = len(self.nodes)
        if self.node_limit is not None and before + len(entries) > self.node_limit:
            raise errors.QuotaExceeded(
                quota="nodes", limit=self.node_limit, wanted=len(entries), held=before
            )
        try:
            for index, entry in enumerate(entries):
                try:
                    self._commit(self._make(entry, max_name))
                except errors.EngineError as error:
                    _locate(error, index, entry.source)
                    raise
        except BaseException:
            self._truncate(before)
            raise
        return self.nodes[before:]

    def _make(self, entry: Entry, max_name: int) -> Node:
        plain = self._plain_operands(entry)
        if plain is not None:
            ids, types = plain
            try:
                op, result = _plain(entry.op, types, self.memory_limit)
            except errors.EngineError:
                pass  # which is told below, with its place
            else:
                return self._node(op, ids, result, entry, max_name)
        op_class = find(entry.op)
        ids = self._operands(op_class, entry.inputs)
        op = op_class.parse(entry.attrs or {})
        return self._typed(op, ids, entry, max_name)

    def _plain_operands(self, entry: Entry) -> tuple[tuple[int, ...], tuple[Type, ...]] | None:
        """The operands of an entry that has few of them, no handles, no attributes and no fault."""
        if entry.attrs or len(entry.inputs) > _FEW:
            return None
        ids: list[int] = []
        types: list[Type] = []
        inputs, nodes = self.inputs, self.nodes
        m = len(inputs)
        for ref in entry.inputs:
            id = self._names.get(ref, -1) if type(ref) is str else ref
            if type(id) is not int or not 0 <= id < m + len(nodes):
                return None
            ids.append(id)
            types.append(inputs[id].type if id < m else nodes[id - m].type)
        return tuple(ids), tuple(types)

    def _operands(self, op: type[Op], refs: Sequence[Ref]) -> tuple[int, ...]:
        _check_arity(op, len(refs))
        return tuple(
            [
                self.resolve(ref, op=op.name, operand=op.operand_name(i))
                for i, ref in enumerate(refs)
            ]
        )

    def _typed(self, op: Op, ids: tuple[int, ...], entry: Entry, max_name: int) -> Node:
        result = _type_of_result(op, [self.type_of(id) for id in ids], self.memory_limit)
        return self._node(op, ids, result, entry, max_name)

    def _node(
        self, op: Op, ids: tuple[int, ...], result: Type, entry: Entry, max_name: int
    ) -> Node:
        if entry.name is not None:
            check_name(entry.name, max_name)
            if entry.name in self._names:
                raise errors.NameConflict(name=entry.name)
        return Node(op, ids, result, entry.name, entry.source, entry.origin)

    def _commit(self, node: Node) -> None:
        if node.name is not None:
            self._names[node.name] = len(self.inputs) + len(self.nodes)
        self.nodes.append(node)

    def _truncate(self, length: int) -> None:
        for node in self.nodes[length:]:
            if node.name is not None:
                del self._names[node.name]
        del self.nodes[length:]


_FEW = 4
"""The most operands with which an application of an op is remembered."""


@lru_cache(maxsize=4096)
def _plain(op: str, operands: tuple[Type, ...], memory_limit: int | None) -> tuple[Op, Type]:
    """An op without attributes, and the type that it has on operands of such types.

    Graphs repeat themselves, and to make an op and find out its type is most of an append.
    """
    op_class = find(op)
    _check_arity(op_class, len(operands))
    made = op_class.parse({})
    return made, _type_of_result(made, operands, memory_limit)


def _check_arity(op: type[Op], count: int) -> None:
    low, high = op.arity()
    if count < low or (high is not None and count > high):
        raise errors.WrongArity(
            op=op.name,
            expected=low if low == high else [low, high],
            actual=count,
            operands=[o.name for o in op.operands],
        )


def _type_of_result(op: Op, operands: Sequence[Type], memory_limit: int | None) -> Type:
    result = op.typing(*operands)
    check_rank("nodes", result.shape)
    check_bytes(result, memory_limit)
    return result


T = TypeVar("T")


def run(inputs: Sequence[Input], program: Callable[[Builder], T]) -> tuple[T, Builder]:
    """Run a program from an empty state (GraphM's `run`): its result and the state it leaves.

    Args:
        inputs: The context; int64, bool and non-differentiable inputs are GraphM's environment.
        program: Appends to the builder that it is given.
    """
    state = Builder(inputs)
    return program(state), state


def build(inputs: Sequence[Input], program: Callable[[Builder], object]) -> Graph:
    """Run a program for its graph alone (GraphM's `build`)."""
    return run(inputs, program)[1].graph()


class VarList(tuple[Handle, ...]):
    """Handles aligned with a list of shapes, as GraphM's dependent list: a head and a tail."""

    __slots__ = ()

    @property
    def head(self) -> Handle:
        """The first handle of a nonempty list."""
        return self[0]

    @property
    def tail(self) -> VarList:
        """All handles but the first."""
        return VarList(self[1:])


def _locate(error: errors.EngineError, index: int, source: str | None) -> None:
    """Say which entry of the request an error is about, and who wrote it."""
    if getattr(error, "node_index", 0) is None:
        error.node_index = index  # type: ignore[attr-defined] # every located error has it
    if source is not None and getattr(error, "source", "") is None:
        error.source = source  # type: ignore[attr-defined]
