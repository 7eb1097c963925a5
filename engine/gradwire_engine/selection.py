"""Which values a request means: outputs, cotangents, inputs with derivatives; and their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from . import errors
from .builder import Handle, Ref
from .ir import Graph, Input
from .spelling import close_names

_ID = re.compile(r"-?[0-9]{1,30}")


def check_word(path: str, value: str, allowed: Sequence[str]) -> None:
    """An option's word is one it knows; raises `InvalidOption`."""
    if value not in allowed:
        raise errors.InvalidOption(
            path=path, value=value, reason=f"it must be one of {', '.join(allowed)}"
        )


def resolve(graph: Graph, ref: Ref) -> int:
    """The id that a ref means in a finished graph; declared outputs come before value names.

    Raises:
        UnknownName, VarOutOfBounds, VarShapeMismatch: The ref does not hold.
    """
    if isinstance(ref, str):
        declared = dict(graph.outputs)
        found = declared.get(ref, graph.names.get(ref))
        if found is None:
            known = [*declared, *graph.names]
            raise errors.UnknownName(name=ref, suggestions=close_names(ref, known))
        return found
    id = ref.id if isinstance(ref, Handle) else ref
    if not 0 <= id < graph.size:
        raise errors.VarOutOfBounds(id=id, ctx_len=graph.size)
    if isinstance(ref, Handle) and graph.type_of(id).shape != ref.shape:
        raise errors.VarShapeMismatch(
            id=id,
            expected=list(ref.shape),
            actual=list(graph.type_of(id).shape),
            source=graph.source_of(id),
        )
    return id


def key_of(ref: Ref) -> str:
    """How an answer names the value that a ref means: as the caller wrote it, an id as text."""
    if isinstance(ref, str):
        return ref
    return str(ref.id if isinstance(ref, Handle) else ref)


def select_outputs(graph: Graph, refs: Sequence[Ref] | None) -> list[tuple[str, int]]:
    """Pairs (name in the answer, id); the declared outputs when nothing is asked for.

    Raises:
        NoOutput: There is nothing to answer with.
    """
    if refs is None:
        found = list(graph.outputs)
    else:
        found = list({key_of(ref): resolve(graph, ref) for ref in refs}.items())
    if not found:
        raise errors.NoOutput()
    return found


def derived_output_names(graph: Graph, chosen: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Names of outputs in a derived graph: an unnamed output 7 is ``v7``."""
    named: dict[str, int] = {}
    for name, id in chosen:
        base = name
        if _ID.fullmatch(name):
            base = graph.name_of(id) or f"v{id}"
        candidate, number = base, 1
        while candidate in named:
            number += 1
            candidate = f"{base}.{number}"
        named[candidate] = id
    return list(named.items())


def find_value(graph: Graph, outputs: Sequence[tuple[str, int]], key: str) -> int:
    """The id that a cotangent's key means: an output of this run, a named value, an id as text.

    Raises:
        UnknownName, VarOutOfBounds: It means none.
    """
    chosen = dict(outputs)
    if key in chosen:
        return chosen[key]
    if _ID.fullmatch(key):
        return resolve(graph, int(key))
    return resolve(graph, key)


def find_input(graph: Graph, name: str, hidden: frozenset[str] = frozenset()) -> Input:
    """The input called `name`; raises `UnknownInput` with close names."""
    id = graph.input_id(name)
    if id is None or name in hidden:
        known = [spec.name for spec in graph.inputs if spec.name not in hidden]
        raise errors.UnknownInput(input=name, suggestions=close_names(name, known))
    return graph.inputs[id]


def differentiable(
    graph: Graph, names: Sequence[str] | None, hidden: frozenset[str] = frozenset()
) -> list[str]:
    """Inputs with derivatives, as asked for; by default every differentiable one.

    Raises:
        UnknownInput, NotDifferentiable: A named input is not there or takes no derivative.
    """
    if names is None:
        return [spec.name for spec in graph.inputs if spec.differentiable and spec.type.is_float]
    for name in names:
        spec = find_input(graph, name, hidden)
        if not (spec.differentiable and spec.type.is_float):
            raise errors.NotDifferentiable(input=name, dtype=spec.type.dtype)
    return list(dict.fromkeys(names))


def require_float_output(graph: Graph, outputs: Sequence[tuple[str, int]]) -> None:
    """At least one output carries a derivative; raises `NotDifferentiable`."""
    if not any(graph.type_of(id).is_float for _, id in outputs):
        name, id = outputs[0]
        raise errors.NotDifferentiable(
            output=name, dtype=graph.type_of(id).dtype, source=graph.source_of(id)
        )


def check_axis(path: str, axis: int, rank: int) -> int:
    """A mapped axis of a tensor whose single sample has `rank` axes, counted from the front."""
    total = rank + 1
    if not -total <= axis < total:
        reason = f"legal is {-total} to {total - 1}: the mapped tensor has {total} axes"
        raise errors.InvalidOption(path=path, value=axis, reason=reason)
    return axis % total


def split_path(path: str, heads: Sequence[str], option: str) -> tuple[str, str]:
    """``inputs/x`` as (``inputs``, ``x``); raises `InvalidOption` for another head."""
    head, slash, name = path.partition("/")
    if not slash or head not in heads:
        reason = f"keys begin with {' or '.join(h + '/' for h in heads)}"
        raise errors.InvalidOption(path=f"{option}/{path}", value=path, reason=reason)
    return head, name
