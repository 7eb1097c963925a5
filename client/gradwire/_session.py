"""Sessions: a graph on the server that grows by the ops one calls on it.

`Session` sends each op at once, or a batch of them in one request; `AsyncSession` records ops and
sends them when it is awaited. Both keep what the server answered, so that handles, names and shapes
are at hand without asking; what other writers add is known after `refresh()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from gradwire import _exchanges as exchanges
from gradwire._connection import AsyncConnection, Connection
from gradwire._function import AsyncFunction, Function
from gradwire._ops import SessionOps
from gradwire._recorder import Recorder, alternatives
from gradwire._resident import AsyncResidentTensor, ResidentTensor
from gradwire._runs import RunPlan
from gradwire._tensor import AsyncTensor, BaseTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gradwire._ops import Either
    from gradwire._protocol import Exchange
    from gradwire._runs import Feed
    from gradwire._tensor import Operand
    from gradwire.wire.messages import (
        JvpAvailability,
        NodeDocument,
        SessionDocument,
        ValueDocument,
    )
    from gradwire.wire.tensors import Array

__all__ = ["AsyncSession", "BaseSession", "InputHandles", "Session"]

T = TypeVar("T")
TensorT = TypeVar("TensorT", bound=BaseTensor)


class InputHandles(Mapping[str, TensorT]):
    """The inputs of a session, by name or as attributes: `g.inputs["w"]`, `g.inputs.w`.

    As an attribute an input hides a method of its name: in a session with an input `keys`,
    `g.inputs.keys` is that input.
    """

    def __init__(self, handles: Mapping[str, TensorT]) -> None:
        self._handles = handles

    def __getitem__(self, name: str) -> TensorT:
        if name not in self._handles:
            raise KeyError(f"there is no input {name!r}; {alternatives(name, self._handles)}")
        return self._handles[name]

    if not TYPE_CHECKING:  # which would see no methods any more, only Any

        def __getattribute__(self, name: str) -> Any:
            own = super().__getattribute__
            if not name.startswith("_") and name in (handles := own("_handles")):
                return handles[name]
            return own(name)

    def __getattr__(self, name: str) -> TensorT:
        if name.startswith("__") or name not in self._handles:
            message = f"there is no input {name!r}"
            raise AttributeError(message, name=name, obj=self)
        return self._handles[name]

    def __contains__(self, name: object) -> bool:
        return name in self._handles

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._handles})

    def __repr__(self) -> str:
        return f"<inputs {', '.join(map(repr, self._handles.values()))}>"


class BaseSession(SessionOps[TensorT], Generic[TensorT]):
    """What both kinds of session share: the ops, and what is known without asking the server."""

    def __init__(self, recorder: Recorder[TensorT]) -> None:
        self._recorder = recorder

    @property
    def id(self) -> str:
        """The session's id, `ses_...`."""
        return self._recorder.id

    @property
    def name(self) -> str | None:
        """The session's name, which is as good as its id in `client.open`."""
        return self._recorder.name

    @property
    def version(self) -> int:
        """The number of nodes, as far as known here."""
        return self._recorder.version

    @property
    def context_length(self) -> int:
        """The number of values, inputs and nodes, as far as known here (GraphM's context)."""
        return len(self._recorder.inputs) + self._recorder.version

    @property
    def inputs(self) -> InputHandles[TensorT]:
        """The inputs by name."""
        return InputHandles(self._recorder.inputs)

    @property
    def args(self) -> tuple[TensorT, ...]:
        """The inputs in order (GraphM's `args`)."""
        return tuple(self._recorder.inputs.values())

    def arg(self, index: int, shape: Sequence[int] | None = None) -> TensorT:
        """Input number `index` (GraphM's `arg`).

        Raises:
            IndexError: There is no such input.
            ValueError: It has another shape than the one given.
        """
        handle = self.args[index]
        if shape is not None and handle.shape != tuple(shape):
            raise ValueError(f"input {index} has shape {handle.shape}, not {tuple(shape)}")
        return handle

    @property
    def outputs(self) -> dict[str, TensorT]:
        """The declared outputs by name."""
        return {name: self._recorder.find(id) for name, id in self._recorder.outputs.items()}

    def __getitem__(self, ref: str | int | BaseTensor) -> TensorT:
        """The value of a name or an id; of another session's handle, the value of its id here.

        Raises:
            KeyError: No such value is known here; `refresh()` asks the server for news.
        """
        return self._recorder.find(ref)

    def __getattr__(self, name: str) -> TensorT:
        # Only inputs: a node's name must not change what an attribute means later.
        recorder: Recorder[TensorT] | None = self.__dict__.get("_recorder")
        if recorder is None or name not in recorder.inputs:
            message = f"{type(self).__name__} has no attribute, op or input {name!r}"
            # A traceback then asks "Did you mean ...?" after looking at what dir() tells.
            raise AttributeError(message, name=name, obj=self)
        return recorder.inputs[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._recorder.inputs})

    def __repr__(self) -> str:
        label = "" if self.name is None else f" {self.name!r}"
        waiting = len(self._recorder.pending)
        more = f", {waiting} to be sent" if waiting else ""
        return f"<{type(self).__name__} {self.id}{label}: {self.context_length} values{more}>"

    def _apply(
        self,
        op: str,
        operands: Sequence[Operand | None],
        attrs: Mapping[str, object],
        *,
        name: str | None = None,
        either: Either | None = None,
    ) -> TensorT:
        return self._recorder.emit(op, operands, attrs, name=name, either=either)

    def append(self, nodes: Sequence[Mapping[str, object]]) -> list[TensorT]:
        """Appends ops as the HTTP contract writes them: `{"op", "inputs", "attrs", "name"}`.

        Refs are ids, names, handles or `{"id", "shape"}`. Nothing is checked here, and nothing
        added but `source`; tensors among the attributes are given as `gradwire.Literal`.
        """
        return self._recorder.append(nodes)

    def _plan(
        self, output: TensorT | str | None, named: Mapping[str, TensorT | str]
    ) -> tuple[RunPlan, bool]:
        recorder = self._recorder
        if output is not None and named:
            raise TypeError("a function has one output, or named ones")
        for value in (output, *named.values()):
            if not isinstance(value, BaseTensor | str | None):  # pyright: ignore[reportUnnecessaryIsInstance] # for callers that nobody type-checks
                raise TypeError(
                    "an output is a handle or the name of a value, several are named: "
                    f"g.function(y), g.function(y=y, h=h); not of type {type(value).__name__}"
                )
        if output is not None:
            return RunPlan(recorder, {_label(output): self._checked(output)}), True
        outputs = {name: self._checked(value) for name, value in named.items()}
        if not outputs:
            outputs = {name: name for name in recorder.outputs}
        if not outputs and (last := recorder.last()) is not None:
            outputs = {_label(last): last}
        return RunPlan(recorder, outputs or None), False

    def _checked(self, value: TensorT | str) -> TensorT | str:
        return value if isinstance(value, str) else self._recorder.own(value)


def _label(output: BaseTensor | str) -> str:
    return output if isinstance(output, str) else output.name or str(output.id)


class Session(BaseSession[Tensor]):
    """A graph on the server: `y = g.linear(g.w, g.b, g.x).tanh().sum()`.

    Each op is a method, typed and documented; it appends a node and gives its handle, or raises
    what the server refuses it with. Inputs are `g["w"]`, `g.inputs.w`, and `g.w` where no method
    has that name. A session object belongs to one thread at a time.
    """

    def __init__(self, connection: Connection, document: SessionDocument) -> None:
        config = connection.config
        super().__init__(
            Recorder(
                document["id"],
                Tensor,
                flush_now=self.flush,
                refer=lambda name: ResidentTensor(name, connection.perform),
                binary=config.binary,
                keep_sources=config.keep_sources,
            )
        )
        self._connection = connection
        self._recorder.load(document)

    def _perform(self, exchange: Exchange[T]) -> T:
        self.flush()
        return self._connection.perform(exchange)

    # -- growing -----------------------------------------------------------------------------------

    def batch(self) -> AbstractContextManager[None]:
        """Ops called inside go out in one request when the block ends, all or none.

        Handles inside have the ids that are coming; where the shape of one is needed before the
        server has told it, what is recorded so far is sent early. If the block raises, nothing
        that still waits is sent.
        """
        return self._recorder.group()

    def flush(self) -> None:
        """Sends the ops that a batch has recorded so far."""
        if self._recorder.pending:
            self._connection.perform(self._recorder.flush())

    def declare_outputs(
        self,
        outputs: Mapping[str, Tensor | str | int] | None = None,
        /,
        **named: Tensor | str | int,
    ) -> None:
        """Declares which values runs answer with by default, instead of those before.

        Args:
            outputs: Values by output name, for names that are no identifiers.
            named: Values by output name.
        """
        self.flush()
        refs = self._recorder.refs({**(outputs or {}), **named})
        self._recorder.outputs = self._perform(exchanges.declare(self.id, refs))

    # -- running -----------------------------------------------------------------------------------

    @overload
    def function(self, output: Tensor | str, /) -> Function[Array]: ...

    @overload
    def function(
        self, output: None = None, /, **outputs: Tensor | str
    ) -> Function[dict[str, Array]]: ...

    def function(
        self, output: Tensor | str | None = None, /, **outputs: Tensor | str
    ) -> Function[Array] | Function[dict[str, Array]]:
        """Values of this graph as a function of its inputs.

        Args:
            output: The one value that the function gives, as an array.
            outputs: Or several, given in a dict by these names; with none at all, those declared,
                or else the last node.
        """
        plan, single = self._plan(output, outputs)
        return Function(plan, self._perform, single=single)

    # -- deriving ----------------------------------------------------------------------------------

    def transform(
        self,
        transform: Literal["vjp", "jvp", "vmap", "linearize"],
        *,
        outputs: Sequence[Tensor | str | int] | None = None,
        wrt: Sequence[str] | None = None,
        axis_size: int | None = None,
        in_axes: Mapping[str, int] | None = None,
        inputs: Feed | None = None,
        name: str | None = None,
    ) -> Session:
        """A new session that holds a graph derived from this one.

        Args:
            transform: `vjp` adds inputs `cotangent.<output>` and outputs `gradient.<input>`; `jvp`
                inputs `tangent.<input>` and outputs `tangent.<output>`; `vmap` a mapped axis;
                `linearize` gives the linear map at a point, from tangents to tangents.
            outputs: Which values it answers with (vjp, jvp, linearize); by default the declared
                ones, or the last.
            wrt: Inputs that derivatives are taken with respect to (vjp, jvp, linearize).
            axis_size: The size of the mapped axis (vmap).
            in_axes: The mapped axis by input (vmap).
            inputs: The point (linearize).
            name: A name for the new session.
        """
        self.flush()
        document, arrays = self._recorder.transform_document(
            transform, outputs, wrt, axis_size, in_axes, inputs
        )
        binary = self._recorder.binary
        exchange = exchanges.transform(self.id, document, arrays, name, binary=binary)
        return Session(self._connection, self._perform(exchange))

    def fork(self, version: int | None = None, *, name: str | None = None) -> Session:
        """A new session that begins as this one was at `version` (None: as it is).

        Handles of this session are looked up in the new one as `new[handle]`.
        """
        exchange = exchanges.fork(self.id, version, name)
        return Session(self._connection, self._perform(exchange))

    # -- asking ------------------------------------------------------------------------------------

    def refresh(self) -> Self:
        """Learns what other writers have added."""
        self._recorder.load(self._perform(exchanges.read(self.id, self._recorder.version)))
        return self

    def document(self) -> SessionDocument:
        """The whole session as the server tells it: inputs, nodes, outputs, times."""
        return self._perform(exchanges.read(self.id))

    def nodes(self) -> list[NodeDocument]:
        """The nodes as the server tells them: op, inputs, attributes, type, source, origin."""
        return self.document()["nodes"]

    def value(self, ref: str | int, shape: Sequence[int] | None = None) -> ValueDocument:
        """What the server says of one value; with `shape`, it checks that as it does a handle's.

        Raises:
            ValueNotFound: There is none of that name or id.
            VarShapeMismatch: It has another shape.
        """
        return self._perform(exchanges.value(self.id, ref, shape))

    def value_data(self, ref: str | int | Tensor) -> Array:
        """The array behind a `const` node."""
        self.flush()
        found = ref.id if isinstance(ref, BaseTensor) else ref
        return self._perform(exchanges.value_data(self.id, found))

    def jvp_availability(self) -> JvpAvailability:
        """Whether this graph can be run in forward mode, and which ops stand in the way."""
        return self._perform(exchanges.jvp_availability(self.id))

    def delete(self) -> None:
        """Ends the session; its handles and functions are of no more use."""
        self._recorder.discard()
        self._connection.perform(exchanges.delete(self.id))


class AsyncSession(BaseSession[AsyncTensor]):
    """As `Session`, for asyncio.

    Calling an op only records it and gives its handle at once. What is recorded goes out in one
    request when a handle is awaited (`y = await g.tanh(g.x)`), at `await g.flush()`, at the end of
    an `async with g.batch():` block, and before any run. A refusal is raised there, and names the
    line that recorded the op. Operators need the shapes of their operands, as do numbers beside
    handles. Those of most ops are known at once; a handle whose repr shows a `?` must be awaited
    first.
    """

    def __init__(self, connection: AsyncConnection, document: SessionDocument) -> None:
        config = connection.config
        super().__init__(
            Recorder(
                document["id"],
                AsyncTensor,
                flush_later=self.flush,
                refer=lambda name: AsyncResidentTensor(name, connection.perform),
                binary=config.binary,
                keep_sources=config.keep_sources,
            )
        )
        self._connection = connection
        self._sending = asyncio.Lock()
        self._recorder.load(document)

    async def _perform(self, exchange: Exchange[T]) -> T:
        await self.flush()
        return await self._connection.perform(exchange)

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[None]:
        """Ops called inside go out in one request when the block ends; none if it raises."""
        with self._recorder.group():
            yield
        await self.flush()

    async def flush(self) -> None:
        """Sends the ops that are recorded.

        Raises:
            GradwireError: The server refuses them: none is appended.
        """
        async with self._sending:  # else two tasks would send the same ops
            if self._recorder.pending:
                await self._connection.perform(self._recorder.flush())

    async def declare_outputs(
        self,
        outputs: Mapping[str, AsyncTensor | str | int] | None = None,
        /,
        **named: AsyncTensor | str | int,
    ) -> None:
        """As `Session.declare_outputs`."""
        await self.flush()
        refs = self._recorder.refs({**(outputs or {}), **named})
        self._recorder.outputs = await self._perform(exchanges.declare(self.id, refs))

    @overload
    def function(self, output: AsyncTensor | str, /) -> AsyncFunction[Array]: ...

    @overload
    def function(
        self, output: None = None, /, **outputs: AsyncTensor | str
    ) -> AsyncFunction[dict[str, Array]]: ...

    def function(
        self, output: AsyncTensor | str | None = None, /, **outputs: AsyncTensor | str
    ) -> AsyncFunction[Array] | AsyncFunction[dict[str, Array]]:
        """As `Session.function`."""
        plan, single = self._plan(output, outputs)
        return AsyncFunction(plan, self._perform, single=single)

    async def transform(
        self,
        transform: Literal["vjp", "jvp", "vmap", "linearize"],
        *,
        outputs: Sequence[AsyncTensor | str | int] | None = None,
        wrt: Sequence[str] | None = None,
        axis_size: int | None = None,
        in_axes: Mapping[str, int] | None = None,
        inputs: Feed | None = None,
        name: str | None = None,
    ) -> AsyncSession:
        """As `Session.transform`."""
        await self.flush()
        document, arrays = self._recorder.transform_document(
            transform, outputs, wrt, axis_size, in_axes, inputs
        )
        binary = self._recorder.binary
        exchange = exchanges.transform(self.id, document, arrays, name, binary=binary)
        return AsyncSession(self._connection, await self._perform(exchange))

    async def fork(self, version: int | None = None, *, name: str | None = None) -> AsyncSession:
        """As `Session.fork`."""
        exchange = exchanges.fork(self.id, version, name)
        return AsyncSession(self._connection, await self._perform(exchange))

    async def refresh(self) -> Self:
        """As `Session.refresh`."""
        exchange = exchanges.read(self.id, self._recorder.version)
        self._recorder.load(await self._perform(exchange))
        return self

    async def document(self) -> SessionDocument:
        """As `Session.document`."""
        return await self._perform(exchanges.read(self.id))

    async def nodes(self) -> list[NodeDocument]:
        """As `Session.nodes`."""
        return (await self.document())["nodes"]

    async def value(self, ref: str | int, shape: Sequence[int] | None = None) -> ValueDocument:
        """As `Session.value`."""
        return await self._perform(exchanges.value(self.id, ref, shape))

    async def value_data(self, ref: str | int | AsyncTensor) -> Array:
        """As `Session.value_data`."""
        await self.flush()
        found = ref.id if isinstance(ref, BaseTensor) else ref
        return await self._perform(exchanges.value_data(self.id, found))

    async def jvp_availability(self) -> JvpAvailability:
        """As `Session.jvp_availability`."""
        return await self._perform(exchanges.jvp_availability(self.id))

    async def delete(self) -> None:
        """As `Session.delete`."""
        self._recorder.discard()
        await self._connection.perform(exchanges.delete(self.id))
