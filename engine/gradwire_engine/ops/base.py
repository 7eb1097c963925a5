"""What an op is: one declaration that holds its meaning, typing, derivatives and documentation.

An op is a subclass of `Op`. Its annotated fields are static attributes; the class becomes a frozen
dataclass, so instances hash and compare. The class keywords say how it takes its operands:

    class Take(Op, inputs=("x", "indices"), linear_in=("x",), nondiff=("indices",)): ...

- ``inputs``: operand names in order; ``"mask?"`` is optional (trailing), ``"*xs"`` variadic.
- ``linear_in``: operands in which the op is linear. By default it is linear in each with the others
  held fixed (``mul``); with ``jointly=True`` in all of them at once (``add``, ``concat``).
- ``nondiff``: operands that carry no derivative whatever their dtype.
- every other operand needs a rule ``jvp_<operand>``.

Rules, all written with `Value`s, so that they differentiate again:

- ``typing(*types) -> Type``: the result's type. It checks attributes, dtypes, shapes, bounds.
- ``numpy(*arrays) -> array``: the meaning; may return a view; never writes to its operands.
- ``jvp_<operand>(dx, y, *operands) -> Value``: the tangent that ``dx`` of that operand causes,
  linear in ``dx``; ``y`` is the result.
- ``transpose_<operand>(ct, *operands) -> Value``: the cotangent of a linear operand. The operand
  itself arrives as its `Type`, the others as `Value`s (jointly linear ones as `Type`s too). For a
  variadic operand: ``transpose_<operand>(ct, i, *types) -> Value``.
- ``vmap(size, mapped, *operands) -> Value``: the op over operands whose mapped ones carry a leading
  axis of length ``size``; the result carries it too.
- ``expand(*operands) -> Value`` instead of all but ``typing``, for a `Composite`.
- ``workspace(*types) -> int``: bytes that ``numpy`` needs beside operands and result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any, ClassVar, dataclass_transform, get_type_hints

import numpy as np

from .. import errors
from ..ir import Type, Value, format_mapping
from ..spelling import close_names
from .attributes import BadAttribute, Kind, Literal

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Operand:
    """One operand as declared."""

    name: str
    variadic: bool = False
    optional: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Attribute:
    """One static attribute as declared. `required` ones have no default."""

    name: str
    kind: Kind
    required: bool
    default: Any


def _operand(text: str) -> Operand:
    return Operand(text.strip("*?"), variadic=text.startswith("*"), optional=text.endswith("?"))


_REGISTRY: dict[str, type[Op]] = {}
_ALIASES: dict[str, str] = {}


@dataclass_transform(frozen_default=True)
class Op:
    """Base of all ops; see the module's text for the protocol."""

    name: ClassVar[str] = ""
    kind: ClassVar[str] = "primitive"
    operands: ClassVar[tuple[Operand, ...]] = ()
    linear_in: ClassVar[tuple[str, ...]] = ()
    jointly: ClassVar[bool] = False
    nondiff: ClassVar[tuple[str, ...]] = ()
    graphm: ClassVar[str | None] = None
    aliases: ClassVar[tuple[str, ...]] = ()
    reverse_only: ClassVar[bool] = False
    view: ClassVar[bool] = False  # NumPy answers with a view of the first operand
    attributes: ClassVar[Mapping[str, Attribute]] = {}

    def __init_subclass__(
        cls,
        *,
        inputs: tuple[str, ...] | None = None,
        linear_in: tuple[str, ...] = (),
        jointly: bool = False,
        nondiff: tuple[str, ...] = (),
        graphm: str | None = None,
        aliases: tuple[str, ...] = (),
        reverse_only: bool = False,
        private: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True)(cls)  # families too, so that ops inherit their fields
        if inputs is None:  # an abstract family, not an op
            return
        cls.name = errors.snake_case(cls.__name__)
        cls.operands = tuple(_operand(text) for text in inputs)
        cls.linear_in, cls.jointly, cls.nondiff = linear_in, jointly, nondiff
        cls.graphm, cls.reverse_only = graphm, reverse_only
        extra = (graphm,) if graphm and graphm != cls.name else ()
        cls.aliases = (*extra, *(a for a in aliases if a not in extra))
        cls.attributes = _attributes(cls)
        if private:
            return
        for key in (cls.name, *cls.aliases):
            if key in _REGISTRY or key in _ALIASES:
                raise ValueError(f"two ops are called {key!r}")
        _REGISTRY[cls.name] = cls
        _ALIASES.update(dict.fromkeys(cls.aliases, cls.name))

    # -- identity ----------------------------------------------------------------------------------

    @cached_property
    def key(self) -> str:
        """Canonical text of name and attributes; equal keys mean the same function."""
        return repr((self.name, *(getattr(self, name) for name in self.attributes)))

    @cached_property
    def structure(self) -> str:
        """As `key`, without the attributes that compiled kernels take as arguments."""
        fixed = [getattr(self, n) for n, a in self.attributes.items() if not a.kind.is_argument]
        return repr((self.name, *fixed))

    def attrs(self) -> dict[str, Any]:
        """Attributes that are set, as they travel: plain JSON values, or arrays."""
        if not self.attributes:
            return {}
        return {
            name: attribute.kind.unparse(getattr(self, name))
            for name, attribute in self.attributes.items()
            if getattr(self, name) is not None
        }

    def label(self) -> str:
        """Attributes that differ from their defaults, for the printer."""
        shown: dict[str, object] = {}
        for name, attribute in self.attributes.items():
            value = getattr(self, name)
            if value is None or (not attribute.required and value == attribute.default):
                continue
            if isinstance(value, Literal):
                value = _literal_text(value)
            shown[name] = value
        return format_mapping(shown)

    @classmethod
    def jvp_availability(cls) -> str:
        """GraphM's word for the op's forward mode: ``implemented`` or ``reverse_only``."""
        return "reverse_only" if cls.reverse_only else "implemented"

    @classmethod
    @cache
    def arity(cls) -> tuple[int, int | None]:
        """Least and greatest number of operands; None where there is no upper bound."""
        low = sum(not (o.optional or o.variadic) for o in cls.operands)
        if any(o.variadic for o in cls.operands):
            return low + 1, None
        return low, len(cls.operands)

    @classmethod
    def operand_name(cls, position: int) -> str:
        """The name of operand `position`; ``xs[2]`` within a variadic one."""
        if cls.operands and cls.operands[-1].variadic and position >= len(cls.operands) - 1:
            return f"{cls.operands[-1].name}[{position - len(cls.operands) + 1}]"
        return cls.operands[position].name

    @classmethod
    def base_operand(cls, position: int) -> str:
        """As `operand_name`, without the index of a variadic one: what rules are named by."""
        return cls.operands[min(position, len(cls.operands) - 1)].name

    # -- construction ------------------------------------------------------------------------------

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Op:
        """Make the op from attributes as they came over the wire.

        Args:
            given: Attribute values; None counts as absent. Tensors are arrays already.

        Raises:
            UnknownAttribute, MissingAttribute, InvalidAttribute: In this order of precedence.
        """
        for name, value in given.items():
            if name not in cls.attributes:
                raise errors.UnknownAttribute(
                    op=cls.name,
                    attribute=name,
                    value=_plain(value),
                    reason=f"it takes {', '.join(cls.attributes) or 'none'}",
                    suggestions=close_names(name, cls.attributes),
                )
        for name, attribute in cls.attributes.items():
            if attribute.required and given.get(name) is None:
                raise errors.MissingAttribute(
                    op=cls.name, attribute=name, reason="it is required and has no default"
                )
        parsed: dict[str, Any] = {}
        for name, value in given.items():
            if value is None:
                continue
            try:
                parsed[name] = cls.attributes[name].kind.parse(value)
            except BadAttribute as fault:
                raise errors.InvalidAttribute(
                    op=cls.name, attribute=name, value=_plain(value), reason=str(fault)
                ) from None
        op = cls(**parsed)
        op.check()
        return op

    def check(self) -> None:
        """Refuse attributes that are ill-formed whatever the operands; see `invalid`."""

    def invalid(self, attribute: str, reason: str) -> errors.InvalidAttribute:
        """The error for an attribute of this op, with its value filled in."""
        kind, value = self.attributes[attribute].kind, getattr(self, attribute)
        shown = None if value is None else _plain(kind.unparse(value))
        return errors.InvalidAttribute(
            op=self.name, attribute=attribute, value=shown, reason=reason
        )

    def mismatch(
        self, operand: str, expected: Any, actual: Type | tuple[int, ...], reason: str | None = None
    ) -> errors.ShapeMismatch:
        """The error for an operand whose shape does not fit."""
        shape = actual.shape if isinstance(actual, Type) else actual
        return errors.ShapeMismatch(
            op=self.name,
            operand=operand,
            expected=list(expected) if isinstance(expected, tuple) else expected,
            actual=list(shape),
            reason=reason,
        )

    def __call__(self, *operands: Value) -> Value:
        """Append this op to the builder of its operands."""
        return operands[0].builder.apply(self, *operands)

    # -- rules that subclasses state ---------------------------------------------------------------

    def typing(self, *types: Any) -> Type:
        """The result's type."""
        raise NotImplementedError(f"{self.name} has no typing rule")

    def numpy(self, *arrays: Any) -> Any:
        """The result's value."""
        raise NotImplementedError(f"{self.name} has no NumPy meaning")

    def vmap(self, size: int, mapped: tuple[bool, ...], *operands: Any) -> Value:
        """The op over a leading axis of the mapped operands."""
        raise NotImplementedError(f"{self.name} has no vmap rule")

    def expand(self, *operands: Any) -> Value:
        """A composite's meaning."""
        raise NotImplementedError(f"{self.name} is a primitive")

    def workspace(self, *types: Any) -> int:
        """Bytes that `numpy` holds at once beside its operands and its result."""
        del types
        return 0

    def tangent_op(self) -> Op:
        """For jointly linear ops that are affine: the linear part (``pad`` with value 0)."""
        return self

    def push_forward(
        self, y: Value, operands: tuple[Value, ...], tangents: tuple[Value | None, ...]
    ) -> Value | None:
        """The result's tangent from those of the operands; None stands for zero.

        The chain rule, one operand at a time, by the rules of this op; a jointly linear op is
        applied to the tangents themselves.
        """
        names = [self.base_operand(i) for i in range(len(operands))]
        live = [
            t is not None and n not in self.nondiff for t, n in zip(tangents, names, strict=True)
        ]
        if not any(live):
            return None
        if self.jointly:
            linear = [
                v if n not in self.linear_in else (t if t is not None else _zeros(v))
                for v, t, n in zip(operands, tangents, names, strict=True)
            ]
            return self.tangent_op()(*linear)
        total: Value | None = None
        for i, (name, t) in enumerate(zip(names, tangents, strict=True)):
            if not live[i] or t is None:
                continue
            if name in self.linear_in:
                part: Value = self(*operands[:i], t, *operands[i + 1 :])
            else:
                part = getattr(self, f"jvp_{name}")(t, y, *operands)
            total = part if total is None else total + part
        return total


class Composite(Op):
    """An op that is a function of other ops: it states `typing` and `expand`, and no other rule."""

    kind: ClassVar[str] = "composite"


def _attributes(cls: type[Op]) -> dict[str, Attribute]:
    hints = get_type_hints(cls, include_extras=True)
    found: dict[str, Attribute] = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type] # made a dataclass by the caller
        if hints[f.name] is Any:  # internal to a private op; no attribute of the catalogue
            continue
        required = f.default is dataclasses.MISSING
        default = None if required else f.default
        found[f.name] = Attribute(f.name, _kind(hints[f.name]), required, default)
    return found


def _kind(hint: Any) -> Kind:
    """The kind inside an annotation, which may be `Annotated[...]` or a union of it with None."""
    for candidate in (hint, *getattr(hint, "__args__", ())):
        for extra in getattr(candidate, "__metadata__", ()):
            if isinstance(extra, Kind):
                return extra
    raise TypeError(f"{hint} names no attribute kind")


def _plain(value: Any) -> Any:
    """A value that can stand in an error body: arrays by type only."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, float) and value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _literal_text(value: Literal) -> str:
    array = value.array
    if array.size <= 4:
        return f"{array.dtype.name} {array.tolist()}"
    return f"{array.dtype.name}{list(array.shape)}:{value.digest[:8]}"


def _zeros(like: Value) -> Value:
    from .sources import zeros_like

    return zeros_like(like)
