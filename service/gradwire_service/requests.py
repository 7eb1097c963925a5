"""Bodies to data: what each route takes, read strictly.

Every function here turns a parsed document into frozen dataclasses and refuses what the contract
does not name: unknown fields, wrong types, missing fields, with the path of the place. An optional
field that is null counts as absent. Whether the values make sense in a graph is the engine's
business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradwire.wire.messages import MAX_SOURCE
from gradwire.wire.tensors import decode_tensor
from gradwire_engine import Entry, Handle, Input, RunSpec, TransformSpec, ops
from gradwire_engine.builder import Ref, make_input
from gradwire_engine.errors import InvalidOption, UnknownOp

from .errors import MalformedBody, UnknownTensor
from .reading import (
    fields,
    flag,
    items,
    join,
    members,
    number,
    optional,
    required,
    sizes_of,
    text,
    texts,
    whole,
    wrong,
)

__all__ = [
    "CreateRequest",
    "ExecuteRequest",
    "ForkRequest",
    "Resident",
    "RunRequest",
    "Tensors",
    "TransformRequest",
    "append_request",
    "execute_request",
    "one_tensor",
    "outputs_request",
    "run_request",
    "session_request",
    "transform_request",
]

Array = np.ndarray[Any, Any]

Resident = Callable[[Collection[str]], Mapping[str, Array]]
"""Finds the caller's resident tensors; raises `UnknownTensor` for one that is not there."""


@dataclass(frozen=True)
class CreateRequest:
    """A new session with these inputs."""

    name: str | None
    inputs: tuple[Input, ...]


@dataclass(frozen=True)
class ForkRequest:
    """A new session that begins as another one was at `version` (None: as it is)."""

    name: str | None
    session: str
    version: int | None


@dataclass(frozen=True)
class Tensors:
    """The tensors of a request, not yet decoded: what they have to be depends on the graph.

    `given` holds them by the path that the engine knows; `prefix` leads from the body to those.
    """

    given: Mapping[str, object]
    prefix: str = ""

    @property
    def base64(self) -> bool:
        """Whether any of them came as base64, so that the answer should too."""
        return any(isinstance(t, dict) and t.get("base64") is not None for t in self.given.values())

    def decode(
        self,
        expects: Mapping[str, tuple[str | None, tuple[int | None, ...] | None]],
        resident: Resident,
    ) -> dict[str, Array]:
        """The arrays, what they leave out filled in from the expected dtype and shape.

        Resident tensors are looked up together, so that all are as they were at one moment.

        Raises:
            WireError: A tensor contradicts itself.
            UnknownTensor: A resident tensor is named that is not there.
        """
        arrays = {}
        named: dict[str, str] = {}
        for path, document in self.given.items():
            dtype, shape = expects.get(path, (None, None))
            name = _resident_name(document, self.prefix + path)
            if name is None:
                arrays[path] = tensor(document, self.prefix + path, dtype, shape)
            else:
                named[path] = name
        if not named:
            return arrays
        try:
            found = resident(set(named.values()))
        except UnknownTensor as error:
            where = next(path for path, name in named.items() if name[:300] == error.name)
            error.path = (self.prefix + where)[:300]
            raise
        # In the order of the request: the first of them that does not fit is told.
        return {path: found[named[path]] if path in named else arrays[path] for path in self.given}


@dataclass(frozen=True)
class RunRequest:
    """A run of a graph."""

    spec: RunSpec
    tensors: Tensors
    store: Mapping[str, str]
    """Names of the resident tensors that results become, by the results' paths."""


@dataclass(frozen=True)
class TransformRequest:
    """A transform whose result becomes a session called `name`."""

    spec: TransformSpec
    tensors: Tensors
    name: str | None


@dataclass(frozen=True)
class ExecuteRequest:
    """A whole graph and its run."""

    inputs: tuple[Input, ...]
    entries: tuple[Entry, ...]
    outputs: Mapping[str, Ref]
    run: RunRequest


# -- what the routes take --------------------------------------------------------------------------


def session_request(document: object) -> CreateRequest | ForkRequest:
    """The body of `POST /v1/sessions`."""
    top = members(document, "")
    if top.get("from") is not None:
        top = fields(document, "", ("name", "from"))
        origin = fields(top["from"], "from", ("session", "version"))
        return ForkRequest(
            name=optional(top, "name", "", text),
            session=required(origin, "session", "from", text),
            version=optional(origin, "version", "from", whole),
        )
    top = fields(document, "", ("name", "inputs", "from"))
    return CreateRequest(
        name=optional(top, "name", "", text), inputs=required(top, "inputs", "", _inputs)
    )


def append_request(document: object, resident: Resident) -> tuple[Entry, ...]:
    """The body of `POST /v1/sessions/{sid}/nodes`; resident tensors in it are looked up."""
    nodes = document.get("nodes") if type(document) is dict and len(document) == 1 else None
    if nodes is None:
        top = fields(document, "", ("nodes",))
        nodes = required(top, "nodes", "", lambda value, _: value)
    return _entries(resident, nodes, "nodes")


def outputs_request(document: object) -> Mapping[str, Ref]:
    """The body of `PUT /v1/sessions/{sid}/outputs`."""
    return required(fields(document, "", ("outputs",)), "outputs", "", _outputs)


def run_request(document: object, mode: str) -> RunRequest:
    """The body of a forward, vjp or jvp run."""
    return _run(fields(document, "", _run_fields(mode)), mode, "")


def transform_request(document: object) -> TransformRequest:
    """The body of `POST /v1/sessions/{sid}/transforms`."""
    name = optional(members(document, ""), "name", "", text)
    spec, given = _transform(document, "")
    return TransformRequest(spec=spec, tensors=Tensors(given), name=name)


def execute_request(document: object, resident: Resident) -> ExecuteRequest:
    """The body of `POST /v1/execute`; resident tensors among its nodes are looked up."""
    top = fields(document, "", ("inputs", "nodes", "outputs", "run"))
    run = members(required(top, "run", "", lambda value, _: value), "run")
    mode = required(run, "mode", "run", text)
    if mode not in _MODES:
        raise InvalidOption(path="run/mode", value=mode, reason=f"it is one of {', '.join(_MODES)}")
    allowed = ("mode", *_run_fields(mode))
    return ExecuteRequest(
        inputs=required(top, "inputs", "", _inputs),
        entries=required(top, "nodes", "", partial(_entries, resident)),
        outputs=optional(top, "outputs", "", _outputs) or {},
        run=_run(fields(run, "run", allowed), mode, "run/"),
    )


# -- graphs ----------------------------------------------------------------------------------------


def _inputs(value: object, path: str) -> tuple[Input, ...]:
    return tuple(_input(item, f"{path}/{k}") for k, item in enumerate(items(value, path)))


def _input(value: object, path: str) -> Input:
    spec = fields(value, path, ("name", "shape", "dtype", "differentiable"))
    name = required(spec, "name", path, text)
    sizes = required(spec, "shape", path, sizes_of)
    dtype = optional(spec, "dtype", path, text)
    differentiable = optional(spec, "differentiable", path, flag)
    return make_input(name, sizes, "float32" if dtype is None else dtype, differentiable, path)


def _entries(resident: Resident, value: object, path: str) -> tuple[Entry, ...]:
    return tuple(
        [
            _plain_entry(item) or _entry(item, f"{path}/{k}", resident)
            for k, item in enumerate(items(value, path))
        ]
    )


def _plain_entry(value: object) -> Entry | None:
    """An entry without attributes that refers to values by name, as most do, if all is well."""
    if type(value) is not dict or not value.keys() <= _ENTRY_FIELDS:
        return None
    op, refs, attrs, name, source = map(value.get, _ENTRY)
    if type(op) is not str or type(refs) is not list or attrs is not None:
        return None
    for ref in refs:
        if type(ref) is not str:
            return None
    if not (name is None or type(name) is str):
        return None
    if not (source is None or (type(source) is str and len(source) <= MAX_SOURCE)):
        return None
    return Entry(op, tuple(refs), None, name, source)


_ENTRY = ("op", "inputs", "attrs", "name", "source")
_ENTRY_FIELDS = frozenset(_ENTRY)


def _entry(value: object, path: str, resident: Resident) -> Entry:
    entry = fields(value, path, _ENTRY)
    op = required(entry, "op", path, text)
    refs = required(entry, "inputs", path, _refs)
    attrs = optional(entry, "attrs", path, members) or {}
    source = optional(entry, "source", path, text)
    if source is not None and len(source) > MAX_SOURCE:
        reason = f"it has {len(source)} characters, {MAX_SOURCE} are allowed"
        raise MalformedBody(path=f"{path}/source", reason=reason)
    return Entry(
        op=op,
        inputs=refs,
        attrs=_attributes(op, attrs, f"{path}/attrs", resident) if attrs else {},
        name=optional(entry, "name", path, text),
        source=source,
    )


def _attributes(
    op: str, given: Mapping[str, Any], path: str, resident: Resident
) -> dict[str, object]:
    """Attributes with tensors decoded; everything else about them is judged by the op."""
    try:
        declared: Mapping[str, Any] = ops.find(op).attributes
    except UnknownOp:
        declared = {}  # the engine refuses the entry, with its place and suggestions
    parsed: dict[str, object] = {}
    for name, value in given.items():
        kind = declared[name].kind if name in declared else None
        if value is None:
            parsed[name] = None
        elif kind is not None and kind.is_tensor:
            parsed[name] = one_tensor(value, f"{path}/{name}", kind.dtype, resident)
        elif isinstance(value, np.ndarray):
            parsed[name] = value.tolist()  # a list of sizes, say, in a binary body
        else:
            _finite(value, f"{path}/{name}")
            parsed[name] = value
    return parsed


def _finite(value: object, path: str) -> None:
    """Refuse a number beyond float64, which the JSON parser has made an infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        raise MalformedBody(path=path[:300], reason="it is a number beyond float64")
    if isinstance(value, list):
        for k, item in enumerate(value):
            if isinstance(item, float | list | dict):
                _finite(item, f"{path}/{k}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _finite(item, f"{path}/{name}")


def _outputs(value: object, path: str) -> dict[str, Ref]:
    return {name: _ref(item, f"{path}/{name}") for name, item in members(value, path).items()}


def _refs(value: object, path: str) -> tuple[Ref, ...]:
    # Most are names: for those there is nothing to do.
    found = items(value, path)
    return tuple(
        [ref if type(ref) is str else _ref(ref, f"{path}/{k}") for k, ref in enumerate(found)]
    )


def _ref(value: object, path: str) -> Ref:
    if isinstance(value, str) or type(value) is int:
        return value
    if isinstance(value, dict):
        handle = fields(value, path, ("id", "shape"))
        number = required(handle, "id", path, whole)
        return Handle(number, required(handle, "shape", path, sizes_of))
    raise wrong(value, path, "an id, a name or a handle")


# -- runs ------------------------------------------------------------------------------------------

_MODES = ("forward", "vjp", "jvp")
_RUN_FIELDS = (
    "inputs",
    "outputs",
    "transforms",
    "in_axes",
    "reduce",
    "nan_policy",
    "deadline_ms",
    "tier",
    "store",
)
_MODE_FIELDS = {"forward": (), "vjp": ("cotangents", "wrt"), "jvp": ("tangents",)}


def _run_fields(mode: str) -> tuple[str, ...]:
    return (*_RUN_FIELDS, *_MODE_FIELDS[mode])


def _run(run: Mapping[str, Any], mode: str, prefix: str) -> RunRequest:
    base = prefix.rstrip("/")
    groups = {
        group: optional(run, group, base, members) for group in ("inputs", "cotangents", "tangents")
    }
    given = {f"{g}/{n}": value for g, named in groups.items() for n, value in (named or {}).items()}
    transforms = []
    for k, item in enumerate(optional(run, "transforms", base, items) or []):
        step, tensors = _transform(item, f"{prefix}transforms/{k}")
        transforms.append(step)
        given.update({f"transforms/{k}/{path}": value for path, value in tensors.items()})

    spec = RunSpec(
        mode=mode,
        outputs=optional(run, "outputs", base, _refs),
        wrt=optional(run, "wrt", base, texts),
        cotangents=tuple(groups["cotangents"] or ()),
        tangents=tuple(groups["tangents"] or ()),
        inputs=tuple(groups["inputs"] or ()),
        transforms=tuple(transforms),
        in_axes=optional(run, "in_axes", base, _axes) or {},
        reduce=optional(run, "reduce", base, _words) or {},
        nan_policy=_or(optional(run, "nan_policy", base, text), "propagate"),
        deadline_ms=optional(run, "deadline_ms", base, number),
        tier=_or(optional(run, "tier", base, text), "auto"),
    )
    store = optional(run, "store", base, _words) or {}
    return RunRequest(spec=spec, tensors=Tensors(given, prefix), store=store)


def _or(value: str | None, default: str) -> str:
    return default if value is None else value


_TRANSFORM_FIELDS = {
    "vjp": ("outputs", "wrt"),
    "jvp": ("outputs", "wrt"),
    "vmap": ("axis_size", "in_axes"),
    "linearize": ("inputs", "outputs", "wrt"),
}


def _transform(value: object, path: str) -> tuple[TransformSpec, dict[str, object]]:
    """A transform, and its tensors by their path within it."""
    kind = required(members(value, path), "transform", path, text)
    if kind not in _TRANSFORM_FIELDS:
        known = ", ".join(_TRANSFORM_FIELDS)
        reason = f"it is one of {known}"
        raise InvalidOption(path=join(path, "transform"), value=kind, reason=reason)
    spec = fields(value, path, ("transform", "name", *_TRANSFORM_FIELDS[kind]))
    optional(spec, "name", path, text)
    inputs = optional(spec, "inputs", path, members) or {}
    axis_size = required(spec, "axis_size", path, whole) if kind == "vmap" else None
    return (
        TransformSpec(
            transform=kind,
            outputs=optional(spec, "outputs", path, _refs),
            wrt=optional(spec, "wrt", path, texts),
            axis_size=axis_size,
            in_axes=optional(spec, "in_axes", path, _axes) or {},
            inputs=tuple(inputs),
        ),
        {f"inputs/{name}": tensor for name, tensor in inputs.items()},
    )


def _axes(value: object, path: str) -> dict[str, int | None]:
    # As everywhere null counts as absent; here it also says of an input that it is not mapped.
    axes = members(value, path)
    return {name: optional(axes, name, path, whole) for name in axes}


def _words(value: object, path: str) -> dict[str, str]:
    return {name: text(item, join(path, name)) for name, item in members(value, path).items()}


def tensor(
    document: object, path: str, dtype: str | None, shape: tuple[int | None, ...] | None
) -> Array:
    """The array that a tensor in a body means; one of a binary body is an array already."""
    if isinstance(document, np.ndarray):
        return document
    return decode_tensor(document, path[:300], dtype=dtype, shape=shape)


def one_tensor(document: object, path: str, dtype: str | None, resident: Resident) -> Array:
    """As `tensor`, of a document that may also name a resident one."""
    return Tensors({path: document}).decode({path: (dtype, None)}, resident)[path]


def _resident_name(document: object, path: str) -> str | None:
    """The name of the resident tensor that a document means, if it means one."""
    if not isinstance(document, dict) or "tensor" not in document:
        return None
    return required(fields(document, path, ("tensor",)), "tensor", path, text)
