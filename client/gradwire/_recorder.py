"""The client's side of a session, without I/O: which values there are, which ops wait to be sent.

Every op becomes a `Pending` entry first. A session that sends at once flushes after each call, a
batch when it ends; one flush is one request. Entries know their coming ids, so that later ones may
refer to them; such a request carries `If-Match`, and when another writer was faster the entries are
numbered anew and sent again. Results whose type the client can tell (`_shapes`) have it before the
answer comes; for others someone who asks for it causes the flush (`learn`).
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, cast

from gradwire import errors
from gradwire._ops import ONE_SHAPE, Either
from gradwire._protocol import Exchange, Request, idempotency_key, segment
from gradwire._shapes import FLOATS, told_dtype, told_shape
from gradwire._tensor import BaseTensor, Operand, Slot, slot_of
from gradwire._values import Literal, Reference, as_sent, as_tensor, by_name, plain
from gradwire.wire.messages import MAX_SOURCE
from gradwire.wire.tensors import encode_tensor

if TYPE_CHECKING:
    from gradwire._values import Refer, Sent, TensorLike
    from gradwire.wire.messages import AppendResponse, NodeDocument, SessionDocument
    from gradwire.wire.tensors import Array

__all__ = ["RawRef", "Recorder", "alternatives"]

TensorT = TypeVar("TensorT", bound=BaseTensor)

RawRef: TypeAlias = "int | str | Mapping[str, object]"

_INLINE: Final = 32  # elements up to which a tensor attribute stays in the JSON of an append
_RENUMBERINGS: Final = 8


@dataclass(eq=False)
class Pending(Generic[TensorT]):
    """An op that waits to be sent; `document` lacks its refs and tensors."""

    document: dict[str, object]
    operands: Sequence[BaseTensor | RawRef]
    tensors: dict[str, Sent]
    result: TensorT
    source: str | None
    serial: int


@dataclass(eq=False)
class Recorder(Generic[TensorT]):
    """What one session knows.

    Attributes:
        id: The session's id.
        make: Makes a handle for a slot.
        flush_now: Sends what is pending and waits for it; None where only an `await` can.
        flush_later: The same to be awaited, where it can be.
        refer: Makes references to resident tensors.
        binary: Whether large tensors travel as safetensors.
        keep_sources: Whether ops carry the caller's file and line.
    """

    id: str
    make: Callable[[Slot], TensorT]
    flush_now: Callable[[], None] | None = None
    flush_later: Callable[[], Awaitable[None]] | None = None
    refer: Refer = Reference
    binary: bool = True
    keep_sources: bool = True
    name: str | None = None
    version: int = 0
    inputs: dict[str, TensorT] = field(default_factory=dict[str, TensorT])
    by_id: dict[int, TensorT] = field(default_factory=dict[int, TensorT])
    by_name: dict[str, TensorT] = field(default_factory=dict[str, TensorT])
    differentiable: list[str] = field(default_factory=list[str])
    outputs: dict[str, int] = field(default_factory=dict[str, int])
    pending: list[Pending[TensorT]] = field(default_factory=list["Pending[TensorT]"])
    depth: int = 0
    recorded: int = 0

    # -- recording ---------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        operands: Sequence[Operand | None],
        attrs: Mapping[str, object] | None = None,
        *,
        name: str | None = None,
        either: Either | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> TensorT:
        """Records one op.

        Numbers and arrays among the operands become constants of the floats beside them, and a
        number of the shape beside it where the op wants one shape. Attributes that are None are
        absent.

        Args:
            op: Its name.
            operands: In order; None at the end is an operand left out.
            attrs: Its attributes.
            name: A name for the result.
            either: Parameters that are an operand if a handle or name is given, else the attribute.
            shape: The result's shape, where the caller can tell; its dtype is then the first
                operand's.
        """
        given: list[Operand | None] = list(operands)
        static = dict(attrs or {})
        for parameter, (value, tensor_dtype) in (either or {}).items():
            if value is None or isinstance(value, BaseTensor | str):
                given.append(value)
            elif tensor_dtype is None:
                static[parameter] = value
            else:
                static[parameter] = Literal(as_sent(value, tensor_dtype))
        while given and given[-1] is None:
            given.pop()
        source = caller() if self.keep_sources else None
        with self.group():
            handles = [self._operand(op, value, given) for value in given]
            told = self._told(op, handles, static, shape)
            document, tensors = _entry(op, static, name)
            return self._record(document, handles, tensors, source, told)

    def append(self, entries: Iterable[Mapping[str, object]]) -> list[TensorT]:
        """Records raw entries; their refs and attributes go out as they stand."""
        source = caller() if self.keep_sources else None
        with self.group():
            results: list[TensorT] = []
            for entry in entries:
                rest = {k: v for k, v in entry.items() if k not in ("inputs", "attrs", "source")}
                attrs = cast("Mapping[str, object]", entry.get("attrs") or {})
                document, tensors = _attributes(attrs)
                line = cast("str | None", entry.get("source", source))
                operands = cast("Sequence[BaseTensor | RawRef]", entry.get("inputs", ()))
                whole = {**rest, **document}
                results.append(self._record(whole, operands, tensors, line))
            return results

    @contextmanager
    def group(self) -> Generator[None]:
        """Ops recorded inside go out together; where the block fails, none does."""
        first = self.recorded
        self.depth += 1
        try:
            yield
        except BaseException:
            self._drop([entry for entry in self.pending if entry.serial >= first])
            raise
        finally:
            self.depth -= 1
        if self.depth == 0 and self.flush_now is not None:
            self.flush_now()

    def learn(self, slot: Slot) -> None:
        """Finds out the type of a value whose op still waits.

        Raises:
            RuntimeError: It takes an `await` to send the op, or it was never appended.
        """
        slot.check()
        if slot.shape is not None and slot.dtype is not None:
            return
        if self.flush_now is not None:
            self.flush_now()
        slot.check()
        if slot.shape is None or slot.dtype is None:
            raise RuntimeError(
                "the type of this value is known once its op is sent: "
                "await the handle, or the session's flush(), first"
            )

    async def send_now(self) -> None:
        """Sends what is pending, for a handle that is awaited."""
        if self.flush_later is not None:
            await self.flush_later()

    def _operand(
        self, op: str, value: Operand | None, others: Sequence[Operand | None]
    ) -> TensorT | str:
        if isinstance(value, BaseTensor):
            return self.own(value)
        if isinstance(value, str):
            return value
        if value is None:
            raise TypeError(f"{op}: only operands at the end can be left out")
        array = as_tensor(value, what=f"an operand of {op}")
        if op in ONE_SHAPE:
            if array.dtype == bool and not array.shape:  # as x == y gives, of handles x and y
                raise TypeError(
                    f"an operand of {op} is {value}; x.equal(y) is what compares values"
                )
            return self._like(array, value, self._beside(others, (*FLOATS, "int64")))
        # Integers keep their dtype: beside floats they are indices.
        near = self._beside(others, FLOATS) if array.dtype.kind == "f" else None
        if near is not None and near.dtype in FLOATS:
            array = as_tensor(value, near.dtype)
        return self._const(array)

    def _like(self, array: Array, value: Operand, near: TensorT | None) -> TensorT:
        """A constant of the dtype of the handle beside it; a number also of its shape."""
        if near is None:
            return self._const(array)
        const = self._const(as_tensor(value, near.dtype))
        if array.shape or not near.shape:
            return const
        attrs = {"shape": list(near.shape)}
        return self.emit("broadcast_to", (const,), attrs, shape=near.shape)

    def _beside(self, others: Sequence[Operand | None], dtypes: Sequence[str]) -> TensorT | None:
        """The first operand of one of these dtypes, or else the first there is.

        Raises:
            RuntimeError: Its type is not known yet, and it takes an `await` to learn it.
        """
        named = (self.by_name.get(o) if isinstance(o, str) else o for o in others)
        handles = [self.own(o) for o in named if isinstance(o, BaseTensor)]
        # Those of known type first: asking for another's would send what a batch has recorded.
        handles.sort(key=lambda handle: slot_of(handle).dtype is None)
        first = handles[0] if handles else None
        return next((handle for handle in handles if handle.dtype in dtypes), first)

    def _const(self, array: Array) -> TensorT:
        return self.emit("const", (), {"value": Literal(array)})

    def own(self, tensor: BaseTensor) -> TensorT:
        """The handle, if it is one of this session's.

        Raises:
            ValueError: It belongs to another session.
            RuntimeError: Its op was never appended.
        """
        slot = slot_of(tensor)
        if slot.owner is not self:
            raise ValueError(
                f"value {slot.id} belongs to another session; session[tensor] gives this "
                "session's handle for the same id"
            )
        slot.check()
        return cast("TensorT", tensor)

    def _told(
        self,
        op: str,
        handles: Sequence[TensorT | str],
        attrs: Mapping[str, object],
        shape: tuple[int, ...] | None,
    ) -> tuple[tuple[int, ...] | None, str | None]:
        """The shape and dtype of a result, as far as they are known before the answer."""
        named = (self.by_name.get(h) if isinstance(h, str) else h for h in handles)
        slots = [None if handle is None else slot_of(handle) for handle in named]
        if op == "const" and isinstance(literal := attrs.get("value"), Literal):
            array = literal.array
            if isinstance(array, Reference):
                return None, None
            return array.shape, array.dtype.name
        dtypes = [None if slot is None else slot.dtype for slot in slots]
        dtype = dtypes[0] if shape is not None else told_dtype(op, dtypes, attrs)
        if shape is None:
            shapes = [None if slot is None else slot.shape for slot in slots]
            shape = told_shape(op, shapes, attrs)
        return shape, dtype

    def _record(
        self,
        document: dict[str, object],
        operands: Sequence[BaseTensor | RawRef],
        tensors: dict[str, Sent],
        source: str | None,
        told: tuple[tuple[int, ...] | None, str | None] = (None, None),
    ) -> TensorT:
        name = document.get("name")
        shape, dtype = told
        slot = Slot(self, self._next_id(len(self.pending)), cast("str | None", name), shape, dtype)
        result = self.make(slot)
        self.pending.append(Pending(document, operands, tensors, result, source, self.recorded))
        self.recorded += 1
        if isinstance(name, str):
            self.by_name.setdefault(name, result)
        return result

    def _next_id(self, ahead: int) -> int:
        return len(self.inputs) + self.version + ahead

    # -- sending -----------------------------------------------------------------------------------

    def flush(self) -> Exchange[None]:
        """Sends what is pending, all in one request.

        Raises:
            GradwireError: It is refused: nothing of it is appended, and its handles are dead.
        """
        if not self.pending:
            return
        entries = tuple(self.pending)
        try:
            for left in reversed(range(_RENUMBERINGS)):
                try:
                    answer = yield self._append_request(entries)
                    break
                except errors.VersionConflict as conflict:
                    if not left or not self._renumber(conflict.actual):
                        raise
            else:
                raise AssertionError("the last renumbering raises")
        except BaseException:
            self._drop(self.pending[:])
            raise
        self._accept(entries, cast("AppendResponse", answer.document))

    def _append_request(self, entries: Sequence[Pending[TensorT]]) -> Request:
        nodes: list[dict[str, object]] = []
        tensors: dict[str, Sent] = {}
        internal = False
        mine = {id(slot_of(entry.result)) for entry in entries}
        for k, entry in enumerate(entries):
            refs: list[object] = []
            for operand in entry.operands:
                if isinstance(operand, BaseTensor):
                    slot = slot_of(operand)
                    internal = internal or id(slot) in mine
                    refs.append(slot.id if id(slot) in mine else slot.document())
                else:
                    refs.append(operand)
            node = {**entry.document, "inputs": refs}
            if entry.source is not None:
                node["source"] = entry.source
            for attribute, array in entry.tensors.items():
                if isinstance(array, Reference) or (array.size > _INLINE and self.binary):
                    tensors[f"nodes/{k}/attrs/{attribute}"] = array
                else:
                    attrs = cast("dict[str, object]", node.get("attrs") or {})
                    node["attrs"] = {**attrs, attribute: encode_tensor(array)}
            nodes.append(node)
        headers = idempotency_key()
        if internal:
            headers["If-Match"] = f'"{self.version}"'
        return Request(
            "POST",
            f"/v1/sessions/{segment(self.id)}/nodes",
            {"nodes": nodes},
            tensors,
            binary=self.binary,
            headers=headers,
            sources=tuple(entry.source for entry in entries),
        )

    def _renumber(self, version: object) -> bool:
        """Takes note of a newer version; False where raw ids in the entries forbid to go on."""
        first = self._next_id(0)
        for entry in self.pending:
            for operand in entry.operands:
                if isinstance(operand, int) and operand >= first:
                    return False
        if not isinstance(version, int):
            return False
        self.version = version
        for k, entry in enumerate(self.pending):
            slot_of(entry.result).id = self._next_id(k)
        return True

    def _accept(self, entries: Sequence[Pending[TensorT]], answer: AppendResponse) -> None:
        del self.pending[: len(entries)]
        for entry, document in zip(entries, answer["nodes"], strict=True):
            slot = slot_of(entry.result)
            slot.settle(document)
            self.by_id[slot.id] = entry.result
        self.version = max(self.version, answer["version"])
        for k, entry in enumerate(self.pending):  # recorded while the request was under way
            slot_of(entry.result).id = self._next_id(k)

    def _drop(self, entries: Sequence[Pending[TensorT]]) -> None:
        dead = {id(entry) for entry in entries}
        for entry in entries:
            slot = slot_of(entry.result)
            slot.refused = True
            if slot.name is not None and self.by_name.get(slot.name) is entry.result:
                del self.by_name[slot.name]
        self.pending = [entry for entry in self.pending if id(entry) not in dead]

    # -- knowing -----------------------------------------------------------------------------------

    def load(self, document: SessionDocument) -> None:
        """Takes over what the server says of the session, beside what is known of it already."""
        self.id, self.name = document["id"], document["name"]
        for spec in document["inputs"]:
            if spec["name"] not in self.inputs:
                handle = self._known(spec["id"], spec["name"], spec["shape"], spec["dtype"])
                self.inputs[spec["name"]] = handle
                if spec["differentiable"]:
                    self.differentiable.append(spec["name"])
        for node in document["nodes"]:
            self.know_node(node)
        self.outputs = dict(document["outputs"])
        self.version = max(self.version, document["version"])
        for k, entry in enumerate(self.pending):
            slot_of(entry.result).id = self._next_id(k)

    def know_node(self, node: NodeDocument) -> TensorT:
        """The handle of a node that the server tells of."""
        return self._known(node["id"], node["name"], node["shape"], node["dtype"])

    def _known(self, id: int, name: str | None, shape: Sequence[int], dtype: str) -> TensorT:
        handle = self.by_id.get(id)
        if handle is None:
            handle = self.make(Slot(self, id, name, tuple(shape), dtype, pending=False))
            self.by_id[id] = handle
            if name is not None:
                self.by_name[name] = handle
        return handle

    def find(self, ref: int | str | BaseTensor) -> TensorT:
        """The handle of a value that is known here.

        Raises:
            KeyError: No value of that id or name is known here.
        """
        if isinstance(ref, BaseTensor):
            slot = slot_of(ref)
            if slot.owner is self:
                return cast("TensorT", ref)
            ref = slot.id
        if isinstance(ref, int):
            waiting = {slot_of(entry.result).id: entry.result for entry in self.pending}
            found = self.by_id.get(ref, waiting.get(ref))
            hint = f"ids go up to {self._next_id(len(self.pending)) - 1}"
        else:
            found = self.by_name.get(ref)
            hint = alternatives(ref, self.by_name) if found is None else ""
        if found is None:
            raise KeyError(f"no value {ref!r} is known in this session; {hint}")
        return found

    def last(self) -> TensorT | None:
        """The newest value that a node stands behind, sent or not."""
        if self.pending:
            return self.pending[-1].result
        newest = max(self.by_id, default=-1)
        return self.by_id[newest] if newest >= len(self.inputs) else None

    def discard(self) -> None:
        """Forgets what is pending."""
        self._drop(self.pending[:])

    # -- other requests ----------------------------------------------------------------------------

    def ref(self, value: BaseTensor | RawRef) -> object:
        """A value as a request names it; handles are typed, so that the server checks them."""
        return slot_of(self.own(value)).document() if isinstance(value, BaseTensor) else value

    def refs(self, values: Mapping[str, BaseTensor | str | int]) -> dict[str, object]:
        """Values as a request names them, by name."""
        return {name: self.ref(value) for name, value in values.items()}

    def transform_document(
        self,
        transform: str,
        outputs: Sequence[BaseTensor | str | int] | None,
        wrt: Sequence[str] | None,
        axis_size: int | None,
        in_axes: Mapping[str, int] | None,
        inputs: Mapping[str, TensorLike] | None,
    ) -> tuple[dict[str, object], dict[str, Sent]]:
        """A transform as a request states it, and the tensors of its point."""
        document: dict[str, object] = {"transform": transform}
        if outputs is not None:
            document["outputs"] = [self.ref(output) for output in outputs]
        if wrt is not None:
            document["wrt"] = [wrt] if isinstance(wrt, str) else list(wrt)
        if axis_size is not None:
            document["axis_size"] = axis_size
        if in_axes is not None:
            document["in_axes"] = dict(in_axes)
        if inputs is not None:
            document["inputs"] = {}
        return document, self.feed(inputs or {})

    def feed(self, values: Mapping[str, TensorLike], what: str = "inputs") -> dict[str, Sent]:
        """Values as references, or arrays of the dtypes that the inputs of those names have.

        Raises:
            TypeError: They are not given by name, or one is made of no numbers.
            ValueError: One is a ragged list.
        """
        known = self.inputs
        return {
            name: as_sent(value, known[name].dtype if name in known else None, f"{what}[{name!r}]")
            for name, value in by_name(what, values).items()
        }


# -- entries ---------------------------------------------------------------------------------------


def _entry(
    op: str, attrs: Mapping[str, object], name: str | None
) -> tuple[dict[str, object], dict[str, Sent]]:
    document, tensors = _attributes({k: v for k, v in attrs.items() if v is not None})
    named: dict[str, object] = {} if name is None else {"name": name}
    return {"op": op, **document, **named}, tensors


def _attributes(attrs: Mapping[str, object]) -> tuple[dict[str, object], dict[str, Sent]]:
    tensors = {k: v.array for k, v in attrs.items() if isinstance(v, Literal)}
    rest = {k: plain(v) for k, v in attrs.items() if not isinstance(v, Literal)}
    return ({"attrs": rest} if rest else {}), tensors


def alternatives(name: str, known: Iterable[str]) -> str:
    """What a name that is unknown may have been meant to be, whatever its case."""
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), folded, 3)
    if close:
        return f"did you mean {' or '.join(repr(folded[other]) for other in close)}?"
    first = ", ".join(map(repr, list(folded.values())[:8]))
    return f"it knows {first}{', ...' if len(folded) > 8 else ''}" if folded else "it has no names"


def caller() -> str | None:
    """The file and line that called into this package, as `source` takes it."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] # documented, and inspect is slow
    while True:
        module = str(frame.f_globals.get("__name__", ""))
        if module != "gradwire" and not module.startswith("gradwire."):
            break
        if frame.f_back is None:
            return None
        frame = frame.f_back
    path, line = frame.f_code.co_filename, f":{frame.f_lineno}"
    here = os.getcwd() + os.sep
    if path.startswith(here):
        path = path[len(here) :]
    return path[-(MAX_SOURCE - len(line)) :] + line
