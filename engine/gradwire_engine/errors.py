"""The error catalogue: every way in which the engine refuses, with its facts in fields.

Each class is one `code`. Its dataclass fields are the facts that travel to the caller; the message
is a template over those facts, so that a fact is never only inside a sentence. `node_index` and
`source` say where: they are filled in by whoever knows the place (the builder, the interpreter).

    EngineError
    +-- ReferenceFault    VarOutOfBounds VarShapeMismatch ValueNotFound UnknownName InvalidName
    |                     NameConflict UnknownOp OpNotFound
    +-- CallError         WrongArity MissingAttribute UnknownAttribute InvalidAttribute
    +-- OptionError       InvalidOption InvalidShape UnknownDtype
    +-- TypingFault       ShapeMismatch DtypeMismatch IndexOutOfBounds
    +-- RunError          NoOutput MissingInput UnknownInput Input/Cotangent/TangentShapeMismatch
    |                     Input/Cotangent/TangentDtypeMismatch MissingCotangent NotDifferentiable
    |                     JvpUnavailable NonFinite DeadlineExceeded CompileFailed
    +-- LimitError        MemoryLimit QuotaExceeded
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar, dataclass_transform

__all__ = [
    "CallError",
    "CompileFailed",
    "CotangentDtypeMismatch",
    "CotangentShapeMismatch",
    "DeadlineExceeded",
    "DtypeMismatch",
    "EngineError",
    "IndexOutOfBounds",
    "InputDtypeMismatch",
    "InputShapeMismatch",
    "InvalidAttribute",
    "InvalidName",
    "InvalidOption",
    "InvalidShape",
    "JvpUnavailable",
    "LimitError",
    "MemoryLimit",
    "MissingAttribute",
    "MissingCotangent",
    "MissingInput",
    "NameConflict",
    "NoOutput",
    "NonFinite",
    "NotDifferentiable",
    "OpNotFound",
    "OptionError",
    "QuotaExceeded",
    "ReferenceFault",
    "RunError",
    "ShapeMismatch",
    "TangentDtypeMismatch",
    "TangentShapeMismatch",
    "TypingFault",
    "UnknownAttribute",
    "UnknownDtype",
    "UnknownInput",
    "UnknownName",
    "UnknownOp",
    "ValueNotFound",
    "VarOutOfBounds",
    "VarShapeMismatch",
    "WrongArity",
    "catalogue",
]


def snake_case(name: str) -> str:
    """``ShapeMismatch`` as ``shape_mismatch``; a digit begins no word."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class _Listed(list[Any]):
    """A list that a template shows as ``[n, 4]``: names in it are sizes, not strings."""

    def __format__(self, spec: str) -> str:
        return f"[{', '.join(map(str, self))}]"


class _Facts(dict[str, Any]):
    """Template arguments; a fact that is absent prints as nothing rather than failing."""

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, "")
        return _Listed(value) if isinstance(value, list) else value


def _rebuild(cls: type[EngineError], facts: dict[str, Any]) -> EngineError:
    return cls(**facts)


@dataclass_transform(kw_only_default=True, eq_default=False)
class EngineError(Exception):
    """Base of everything the engine (and the service above it) refuses with.

    Subclasses state `template=` and annotate their facts; both `code` and the dataclass machinery
    follow from that. A fact that is None is absent and does not travel.
    """

    code: ClassVar[str] = "error"
    template: ClassVar[str] = ""
    abstract: ClassVar[bool] = True

    def __init_subclass__(cls, *, template: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.abstract = template is None
        if template is not None:
            cls.template = template
            cls.code = snake_case(cls.__name__)
        # eq=False keeps exceptions hashable; frozen would break `raise ... from`.
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)

    def facts(self) -> dict[str, Any]:
        """The facts that travel: every field that is set, in the order of declaration."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type] # made so by __init_subclass__
        named = {f.name: getattr(self, f.name) for f in fields}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def message(self) -> str:
        """One or two sentences for people: what was wrong, where, and what to do."""
        return self.sentence() + self.hint() + self.place()

    def sentence(self) -> str:
        """The message without the place it speaks of."""
        return self.template.format_map(_Facts(self.facts()))

    def hint(self) -> str:
        """What the caller may have meant, of the errors that have the fact `suggestions`."""
        close = self.facts().get("suggestions")
        return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""

    def place(self) -> str:
        """Where it happened, as far as anyone filled it in."""
        facts = self.facts()
        where = []
        if "node_index" in facts:
            where.append(f"entry {facts['node_index']} of the request")
        if "source" in facts:
            where.append(f"appended at {facts['source']}")
        return f" ({', '.join(where)})" if where else ""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.facts())


class _Located(EngineError):
    """An error about one node: which entry of a request, which node, and who wrote it."""

    node_index: int | None = None
    source: str | None = None


# -- references ------------------------------------------------------------------------------------


class ReferenceFault(_Located):
    """A request names something that is not there, or may not be named so."""


class VarOutOfBounds(
    ReferenceFault,
    template="{where}there is no value {id}: there are {ctx_len} values, ids below {ctx_len}.",
):
    """A value id is negative or not below the number of values (GraphM's context length)."""

    id: int
    ctx_len: int
    op: str | None = None
    operand: str | None = None

    def sentence(self) -> str:
        where = f"{self.op}, operand {self.operand}: " if self.op else ""
        return self.template.format(where=where, id=self.id, ctx_len=self.ctx_len)


class VarShapeMismatch(
    ReferenceFault,
    template="value {id} has shape {actual}, but the handle says {expected}. "
    "The handle belongs to another graph, or was made by hand.",
):
    """A typed handle states another shape than the value has."""

    id: int
    expected: list[int]
    actual: list[int]
    op: str | None = None
    operand: str | None = None


class ValueNotFound(ReferenceFault, template="no value {ref!r} in this session."):
    """A value asked for by id or name does not exist."""

    ref: int | str
    ctx_len: int
    suggestions: list[str] | None = None


class UnknownName(ReferenceFault, template="no value is named {name!r}."):
    """A reference by name finds nothing."""

    name: str
    suggestions: list[str] | None = None
    op: str | None = None
    operand: str | None = None


class InvalidName(
    ReferenceFault,
    template="{name!r} cannot be a name: {reason}.",
):
    """A name breaks the rules for names; `path` says where in the request it stands."""

    name: str
    reason: str
    path: str | None = None
    suggestions: list[str] | None = None

    def sentence(self) -> str:
        """The message, with the place of the name where that is known."""
        place = "" if self.path is None else f"{self.path}: "
        return place + super().sentence()


class NameConflict(ReferenceFault, template="the name {name!r} is taken here; choose another."):
    """A name is already in use in its scope."""

    name: str


class UnknownOp(ReferenceFault, template="there is no op {op!r}."):
    """An appended entry names no op of the catalogue."""

    op: str
    suggestions: list[str] | None = None


class OpNotFound(ReferenceFault, template="there is no op {op!r} in the catalogue."):
    """The catalogue was asked for an op that it does not hold."""

    op: str
    suggestions: list[str] | None = None


# -- calls -----------------------------------------------------------------------------------------


class CallError(_Located):
    """An op is called with the wrong number of operands or the wrong attributes."""


class WrongArity(CallError, template="{op} takes {wanted} ({names}), got {actual}."):
    """Too few or too many operands."""

    op: str
    expected: int | list[int | None]
    actual: int
    operands: list[str] | None = None

    def sentence(self) -> str:
        if isinstance(self.expected, int):
            wanted = f"{self.expected} operand{'s' * (self.expected != 1)}"
        else:
            low, high = self.expected
            wanted = f"{low} or more operands" if high is None else f"{low} to {high} operands"
        names = ", ".join(self.operands or []) or "none"
        return self.template.format(op=self.op, wanted=wanted, names=names, actual=self.actual)


class MissingAttribute(CallError, template="{op} needs the attribute {attribute!r}: {reason}."):
    """A required attribute is absent or null."""

    op: str
    attribute: str
    reason: str
    value: Any = None


class UnknownAttribute(CallError, template="{op} has no attribute {attribute!r}: {reason}."):
    """An attribute that the op does not declare."""

    op: str
    attribute: str
    value: Any = None
    reason: str
    suggestions: list[str] | None = None


class InvalidAttribute(
    CallError, template="{op}: attribute {attribute!r} cannot be {value!r}: {reason}."
):
    """An attribute is ill-formed in itself."""

    op: str
    attribute: str
    value: Any
    reason: str


# -- options and declarations ----------------------------------------------------------------------


class OptionError(_Located):
    """A word or number of the right type that the option does not know."""


class InvalidOption(OptionError, template="{path}: {value!r} is not allowed: {reason}."):
    """An option has a value that it does not know."""

    path: str
    value: Any
    reason: str


class InvalidShape(OptionError, template="{path}: {value!r} is no shape: {reason}."):
    """A declared shape has a negative size or too many axes."""

    path: str
    value: Any
    reason: str


class UnknownDtype(OptionError, template="{path}: there is no dtype {value!r}: {reason}."):
    """A dtype that the engine does not have."""

    path: str
    value: Any
    reason: str


# -- typing ----------------------------------------------------------------------------------------


class TypingFault(_Located):
    """The operands of an op do not fit it or each other."""


class ShapeMismatch(
    TypingFault, template="{op}: operand {operand} should have shape {expected}, got {actual}."
):
    """An operand has a shape that the op cannot take."""

    op: str
    operand: str
    expected: Any
    actual: Any
    reason: str | None = None

    def sentence(self) -> str:
        base = super().sentence()
        return f"{base} {self.reason[0].upper()}{self.reason[1:]}." if self.reason else base


class DtypeMismatch(
    TypingFault,
    template="{op}: operand {operand} should have dtype {expected}, got {actual}. "
    "Insert a cast, or declare the input so.",
):
    """An operand has a dtype that the op cannot take."""

    op: str
    operand: str
    expected: Any
    actual: str


class IndexOutOfBounds(
    TypingFault, template="{op}: {what} points at {index}; legal is {low} to {high}."
):
    """A static index points past an end. `low` and `high` are both legal."""

    op: str
    attribute: str | None = None
    operand: str | None = None
    index: int
    low: int
    high: int

    def sentence(self) -> str:
        what = self.attribute if self.attribute is not None else self.operand
        return self.template.format_map(_Facts({**self.facts(), "what": what}))


# -- runs ------------------------------------------------------------------------------------------


class RunError(_Located):
    """A run cannot start, or had to stop."""


class NoOutput(RunError, template="this graph has no node and no declared output: nothing to run."):
    """Nothing to compute."""


class MissingInput(RunError, template="the run needs a value for input {input!r}."):
    """An input that the outputs depend on was not given; `missing` names all of them."""

    input: str
    missing: list[str]
    suggestions: list[str] | None = None

    def sentence(self) -> str:
        if len(self.missing) == 1:
            return super().sentence()
        names = ", ".join(map(repr, self.missing[:20]))
        rest = len(self.missing) - 20
        return f"the run needs values for inputs {names}{f' and {rest} more' * (rest > 0)}."


class UnknownInput(RunError, template="this graph has no input {input!r}."):
    """A run names an input that does not exist."""

    input: str
    suggestions: list[str] | None = None


class InputShapeMismatch(RunError, template="input {input!r} should be {expected}, got {actual}."):
    """A given input has another shape than declared."""

    input: str
    expected: Any
    actual: Any

    def sentence(self) -> str:
        base = super().sentence()
        if len(self.actual) == len(self.expected) + 1 and self.actual[1:] == self.expected:
            return (
                f"{base} To run many samples at once, map the axis: inputs/{self.input} in in_axes."
            )
        return base


class InputDtypeMismatch(RunError, template="input {input!r} should be {expected}, got {actual}."):
    """A given input has another dtype than declared."""

    input: str
    expected: str
    actual: str


class CotangentShapeMismatch(
    RunError, template="the cotangent of {output!r} should be {expected}, got {actual}."
):
    """A cotangent has another shape than its output."""

    output: str
    expected: Any
    actual: Any


class CotangentDtypeMismatch(
    RunError, template="the cotangent of {output!r} should be {expected}, got {actual}."
):
    """A cotangent has another dtype than its output."""

    output: str
    expected: str
    actual: str


class TangentShapeMismatch(
    RunError, template="the tangent of {input!r} should be {expected}, got {actual}."
):
    """A tangent has another shape than its input."""

    input: str
    expected: Any
    actual: Any


class TangentDtypeMismatch(
    RunError, template="the tangent of {input!r} should be {expected}, got {actual}."
):
    """A tangent has another dtype than its input."""

    input: str
    expected: str
    actual: str


class MissingCotangent(
    RunError,
    template="a VJP of {outputs} needs a cotangent: only a single scalar output defaults to 1.",
):
    """No cotangent was given and none can be assumed."""

    outputs: list[str]


class NotDifferentiable(
    RunError,
    template="{what} takes no derivative (dtype {dtype}): leave it out, or declare it otherwise.",
):
    """A derivative was asked of an int64, bool or non-differentiable input or output."""

    input: str | None = None
    output: str | None = None
    dtype: str

    def sentence(self) -> str:
        what = f"input {self.input!r}" if self.input is not None else f"output {self.output!r}"
        return self.template.format(what=what, dtype=self.dtype)


class JvpUnavailable(
    RunError,
    template="forward mode is not available: {ops} (values {nodes}) have a VJP only. Use a VJP.",
):
    """A forward-mode request would meet an op without a forward-mode rule."""

    ops: list[str]
    nodes: list[int]


class NonFinite(
    RunError,
    template="{stage}: value {node} ({label}) is {value} at flat index {index}.",
):
    """The first non-finite value met under `nan_policy: error`."""

    stage: str
    node: int
    name: str | None = None
    op: str | None = None
    sample: int | None = None
    index: int
    value: str

    def sentence(self) -> str:
        label = self.name or self.op or "unnamed"
        return self.template.format_map(_Facts({**self.facts(), "label": label}))


class DeadlineExceeded(RunError, template="the run took longer than its {deadline_ms} ms."):
    """The deadline passed before the run was done."""

    deadline_ms: float


class CompileFailed(RunError, template="the compiled tier cannot run this graph: {reason}."):
    """`tier: compiled` was asked for and is not to be had."""

    reason: str


# -- limits ----------------------------------------------------------------------------------------


class LimitError(_Located):
    """The request is sound, but larger than this engine may serve."""


class MemoryLimit(
    LimitError, template="this needs {actual} bytes, the limit is {limit}. Make it smaller."
):
    """Estimated memory exceeds the limit."""

    limit: int
    actual: int


class QuotaExceeded(LimitError, template="{counts} {what}, the limit is {limit}."):
    """More than a limit allows; waiting does not help.

    `held` counts against the limit already, where the quota is on things that add up; `wanted` is
    what this request would add, or have.
    """

    quota: str
    limit: int
    wanted: int
    held: int | None = None

    def sentence(self) -> str:
        """The message in counts."""
        counts = f"this asks for {self.wanted}"
        if self.held is not None:
            counts = f"{self.held} are held and {counts} more"
        what = self.quota.replace("_", " ")
        return self.template.format(counts=counts, what=what, limit=self.limit)


def catalogue() -> dict[str, type[EngineError]]:
    """Every concrete error by code, the service's own included once they are imported."""
    found: dict[str, type[EngineError]] = {}
    queue: list[type[EngineError]] = [EngineError]
    while queue:
        cls = queue.pop()
        queue.extend(cls.__subclasses__())
        if not cls.abstract:
            found[cls.code] = cls
    return dict(sorted(found.items()))
