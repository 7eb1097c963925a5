"""From a request's names to a question: outputs, seeds, derivatives, mapped axes, reductions.

Everything is resolved and checked here, against the graph alone; no tensor is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import errors
from .ir import FLOATS, Graph
from .ops import checks
from .program import Question
from .request import REDUCTIONS, RESULTS, RunSpec
from .selection import (
    check_axis,
    check_word,
    differentiable,
    find_input,
    find_value,
    require_float_output,
    split_path,
)
from .transform.jvp import preflight


def pose(
    graph: Graph, spec: RunSpec, chosen: list[tuple[str, int]], hidden: frozenset[str]
) -> tuple[Question, list[tuple[str, str]]]:
    """Resolve names, then axes and reductions; also which output each cotangent's key means."""
    wrt: tuple[str, ...] = ()
    seed_keys: list[tuple[str, str]] = []
    seeds: tuple[str, ...] = ()
    if spec.mode == "vjp":
        wrt = tuple(differentiable(graph, spec.wrt, hidden))
        seed_keys = _seed_keys(graph, spec, chosen)
        seeds = _seeds(graph, chosen, seed_keys)
    elif spec.mode == "jvp":
        wrt = tuple(differentiable(graph, spec.tangents, hidden))
        require_float_output(graph, chosen)
    selected = graph.with_outputs(chosen)
    if spec.mode == "jvp":
        preflight(selected)
    axes, seed_axes, tangent_axes = _mapped_axes(selected, spec, seed_keys, hidden)
    question = Question(
        spec.mode,
        selected,
        wrt,
        seeds,
        axes if mapped_paths(spec) else None,
        seed_axes,
        tangent_axes,
    )
    return replace(question, reduce=_reductions(question, spec)), seed_keys


def mapped_paths(spec: RunSpec) -> list[str]:
    """The keys of ``in_axes`` that map something; a null axis maps nothing."""
    return [path for path, axis in spec.in_axes.items() if axis is not None]


def _seed_keys(graph: Graph, spec: RunSpec, chosen: list[tuple[str, int]]) -> list[tuple[str, str]]:
    """Which output each cotangent belongs to; a value that was none becomes one."""
    pairs: list[tuple[str, str]] = []
    for key in spec.cotangents:
        id = find_value(graph, chosen, key)
        if not graph.type_of(id).is_float:
            raise errors.NotDifferentiable(
                output=key, dtype=graph.type_of(id).dtype, source=graph.source_of(id)
            )
        name = next((n for n, i in chosen if i == id), None)
        if key in dict(chosen):
            name = key
        if name is None:
            name = key
            chosen.append((key, id))
        if name in [output for _, output in pairs]:
            raise errors.InvalidOption(
                path=f"cotangents/{key}", value=key, reason="this value has a cotangent already"
            )
        pairs.append((key, name))
    return pairs


def _seeds(
    graph: Graph, chosen: Sequence[tuple[str, int]], seed_keys: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """Outputs with a cotangent; a single scalar output has 1 by default."""
    if seed_keys:
        return tuple(output for _, output in seed_keys)
    require_float_output(graph, chosen)
    floats = [(name, id) for name, id in chosen if graph.type_of(id).is_float]
    if len(floats) == 1 and graph.type_of(floats[0][1]).rank == 0:
        return (floats[0][0],)
    raise errors.MissingCotangent(outputs=[name for name, _ in floats])


def _mapped_axes(
    graph: Graph,
    spec: RunSpec,
    seed_keys: Sequence[tuple[str, str]],
    hidden: frozenset[str],
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """``in_axes`` by what it names: inputs, cotangents (by output) and tangents."""
    inputs: dict[str, int] = {}
    seeds: dict[str, int] = {}
    tangents: dict[str, int] = {}
    for path, axis in spec.in_axes.items():
        heads = {"vjp": ("inputs", "cotangents"), "jvp": ("inputs", "tangents")}
        head, name = split_path(path, heads.get(spec.mode, ("inputs",)), "in_axes")
        if head == "inputs":
            rank = find_input(graph, name, hidden).type.rank
            if axis is not None:
                inputs[name] = check_axis(f"in_axes/{path}", axis, rank)
            continue
        if head == "cotangents":
            output = dict(seed_keys).get(name)
            if output is None:
                find_value(graph, graph.outputs, name)
                if axis is None:
                    continue
                raise _not_given(path, axis, "no such cotangent is given")
            if axis is None:
                continue
            rank = graph.type_of(dict(graph.outputs)[output]).rank
            seeds[output] = check_axis(f"in_axes/{path}", axis, rank)
            continue
        rank = find_input(graph, name, hidden).type.rank
        if axis is None:
            continue
        if name not in spec.tangents:
            raise _not_given(path, axis, "no such tangent is given")
        tangents[name] = check_axis(f"in_axes/{path}", axis, rank)
    return inputs, seeds, tangents


def _not_given(path: str, value: Any, reason: str) -> errors.InvalidOption:
    return errors.InvalidOption(path=f"in_axes/{path}", value=value, reason=reason)


def _reductions(question: Question, spec: RunSpec) -> dict[tuple[str, str], str]:
    """``reduce`` by answer: kind and name."""
    if spec.reduce and not mapped_paths(spec):
        raise errors.InvalidOption(
            path="reduce", value=dict(spec.reduce), reason="nothing is mapped: in_axes is empty"
        )
    graph = question.graph
    answers: dict[str, list[str]] = {kind: [] for kind in RESULTS[spec.mode]}
    for kind, name in question.answers:
        answers[kind].append(name)
    found: dict[tuple[str, str], str] = {}
    for path, how in spec.reduce.items():
        check_word(f"reduce/{path}", how, REDUCTIONS)
        head, name = split_path(path, tuple(answers), "reduce")
        if name not in answers[head]:
            raise errors.InvalidOption(
                path=f"reduce/{path}",
                value=path,
                reason=f"this run answers with {', '.join(f'{head}/{n}' for n in answers[head])}",
            )
        dtype = graph.type_of(dict(graph.outputs)[name]).dtype if head == "outputs" else FLOATS[0]
        if dtype not in (FLOATS if how == "mean" else checks.NUMERIC):
            raise errors.InvalidOption(
                path=f"reduce/{path}", value=how, reason=f"there is no {how} of {dtype}"
            )
        found[head, name] = how
    return found
