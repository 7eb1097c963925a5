"""A request checked against a graph: what tensors it expects, and how it runs with them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import errors
from .derive import derive, needed_inputs
from .inspect_values import first_non_finite
from .ir import Graph, Type
from .limits import Limits
from .program import Program, Question, build
from .question import pose
from .request import MODES, NAN_POLICIES, TIERS, Expected, RunResult, RunSpec
from .runtime import Plan
from .selection import check_word, find_input, select_outputs
from .transform.linearize import Linearization

Array = np.ndarray[Any, Any]
Deadline = tuple[float, float] | None
"""The moment by `time.monotonic`, and the milliseconds as the caller stated them."""

Runner = Callable[[Plan, list[Any], Deadline], list[Array]]
Planner = Callable[[Graph, Deadline], Plan]

CACHED_SIZES = 8


@dataclass(frozen=True)
class Point:
    """A linearization inside a run: where its inputs come from, and which residuals it yields."""

    prefix: str
    split: Linearization


@dataclass
class Prepared:
    """A checked request. `execute` may be called from many threads at once.

    Attributes:
        expects: The type of every tensor that the caller may give, by path.
        needed: Paths of the tensors that must be given.
        question: What is computed.
        seed_keys: For each cotangent, in order: its key as written and the output it belongs to.
    """

    spec: RunSpec
    expects: Mapping[str, Expected]
    needed: tuple[str, ...]
    question: Question
    points: tuple[Point, ...]
    hidden: frozenset[str]
    seed_keys: tuple[tuple[str, str], ...]
    run_plan: Runner
    make_plan: Planner
    _plans: OrderedDict[int | None, tuple[Program, Plan]] = field(default_factory=OrderedDict)
    _point_plans: dict[int, Plan] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def execute(self, tensors: Mapping[str, Array]) -> RunResult:
        """Run with these tensors, by path.

        Raises:
            EngineError: A tensor is missing or does not fit, a limit is exceeded, the deadline
                passed, or (under ``nan_policy: error``) a value is not finite.
        """
        start = time.perf_counter()
        deadline = self._deadline()
        size = self._check(tensors)
        program, plan = self._program(size, deadline)
        compiled = time.perf_counter()
        residuals = self._residuals(tensors, deadline)
        if self.spec.nan_policy == "error":
            self._inspect(tensors, residuals, size, deadline)
        arguments = self._arguments(program.graph, self.question, tensors, residuals)
        arrays = self.run_plan(plan, arguments, deadline)
        keyed = zip(program.answers, arrays, strict=True)
        results = {f"{kind}/{name}": array for (kind, name), array in keyed}
        finished = time.perf_counter()
        return RunResult(
            results, "interpreted", (compiled - start) * 1e3, (finished - compiled) * 1e3
        )

    def _deadline(self) -> Deadline:
        if self.spec.deadline_ms is None:
            return None
        return time.monotonic() + self.spec.deadline_ms / 1e3, self.spec.deadline_ms

    def _program(self, size: int | None, deadline: Deadline) -> tuple[Program, Plan]:
        with self._lock:
            found = self._plans.get(size)
        if found is None:
            program = build(self.question, size)
            found = program, self.make_plan(program.graph, deadline)
            with self._lock:
                self._plans[size] = found
                while len(self._plans) > CACHED_SIZES:
                    self._plans.popitem(last=False)
        return found

    # -- tensors -----------------------------------------------------------------------------------

    def _check(self, tensors: Mapping[str, Array]) -> int | None:
        """Compare tensors with what is expected; the length of the mapped axis, if there is one."""
        size = check_tensors(self.expects, self.needed, tensors)
        if self.question.axes is not None and size is None:
            # Only tensors that this run does not need are mapped, and none of them was given.
            raise errors.InvalidOption(
                path="in_axes",
                value=dict(self.spec.in_axes),
                reason="none of the mapped tensors is given, so the axis has no length",
            )
        means = [path for path, how in self.spec.reduce.items() if how == "mean"]
        if size == 0 and means:
            raise errors.InvalidOption(
                path=f"reduce/{means[0]}", value="mean", reason="the mapped axis is empty"
            )
        return size

    def _residuals(self, tensors: Mapping[str, Array], deadline: Deadline) -> dict[str, Array]:
        """Values of the hidden inputs: each linearization's residuals, in order."""
        known: dict[str, Array] = {}
        for index, point in enumerate(self.points):
            graph = point.split.residual
            given = [
                known.get(spec.name, tensors.get(f"{point.prefix}inputs/{spec.name}"))
                for spec in graph.inputs
            ]
            plan = self._point_plans.get(index)
            if plan is None:
                plan = self._point_plans[index] = self.make_plan(graph, deadline)
            arrays = self.run_plan(plan, given, deadline)
            known = dict(zip(point.split.residual_names, arrays, strict=True))
        return known

    def _arguments(
        self,
        graph: Graph,
        question: Question,
        tensors: Mapping[str, Array],
        residuals: Mapping[str, Array],
    ) -> list[Array | None]:
        """One array for each input of an executable graph, defaults filled in."""
        m = len(question.graph.inputs)
        arguments: list[Array | None] = []
        live = graph.reachable(id for _, id in graph.outputs)
        for i, spec in enumerate(graph.inputs[:m]):
            given = residuals.get(spec.name, tensors.get(f"inputs/{spec.name}"))
            if given is None and live[i]:
                # Live only in form: the answer does not depend on it (or it is a tap, fed zeros).
                given = np.zeros(spec.type.shape, spec.type.dtype)
            arguments.append(given)
        extra = graph.inputs[m:]
        paths: list[str | None] = []
        default: Callable[..., Array] = np.zeros
        if question.mode == "vjp":
            order = [name for name, _ in question.graph.outputs if name in question.seeds]
            keys = {name: f"cotangents/{key}" for key, name in self.seed_keys}
            paths = [keys.get(name) for name in order]
            default = np.ones
        elif question.mode == "jvp":
            paths = [f"tangents/{name}" for name in question.wrt]
        for spec, path in zip(extra, paths, strict=True):
            given = tensors.get(path) if path is not None else None
            arguments.append(default(spec.type.shape, spec.type.dtype) if given is None else given)
        return arguments

    def _inspect(
        self,
        tensors: Mapping[str, Array],
        residuals: Mapping[str, Array],
        size: int | None,
        deadline: Deadline,
    ) -> None:
        """Under ``nan_policy: error``: look at every value and refuse the first non-finite one."""

        def run(question: Question) -> list[tuple[tuple[str, str], Array]]:
            program = build(question, size)
            plan = self.make_plan(program.graph, deadline)
            arguments = self._arguments(program.graph, question, tensors, residuals)
            arrays = self.run_plan(plan, arguments, deadline)
            return list(zip(program.answers, arrays, strict=True))

        fault = first_non_finite(self.question, size is not None, tensors, self.hidden, run)
        if fault is not None:
            raise fault


def check_tensors(
    expects: Mapping[str, Expected], needed: Sequence[str], tensors: Mapping[str, Array]
) -> int | None:
    """Compare tensors with what is expected of them.

    Returns:
        The length of the mapped axis, if there is one.

    Raises:
        MissingInput, or a shape or dtype mismatch: The first thing that does not fit.
    """
    size: int | None = None
    for path, array in tensors.items():
        expected = expects[path]
        wanted = tuple(size if s is None and size is not None else s for s in expected.shape)
        fits = len(array.shape) == len(wanted) and all(
            w is None or w == s for w, s in zip(wanted, array.shape, strict=True)
        )
        if array.dtype.name != expected.dtype:
            raise _mismatch(path, "dtype", expected, expected.dtype, array.dtype.name)
        if not fits:
            shown = ["n" if w is None else w for w in wanted]
            raise _mismatch(path, "shape", expected, shown, list(array.shape))
        if None in expected.shape:
            size = array.shape[expected.shape.index(None)]
    for path in needed:
        if path not in tensors:
            raise errors.MissingInput(input=path.split("inputs/", 1)[1])
    return size


def _mismatch(
    path: str, what: str, wanted: Expected, expected: Any, actual: Any
) -> errors.EngineError:
    """The error for a tensor that is sound but not of the declared type."""
    head, _, name = path.rpartition("inputs/") if "inputs/" in path else path.partition("/")
    if head == "cotangents":
        cls = {"shape": errors.CotangentShapeMismatch, "dtype": errors.CotangentDtypeMismatch}
        return cls[what](output=name, expected=expected, actual=actual, source=wanted.source)
    if head == "tangents":
        kinds = {"shape": errors.TangentShapeMismatch, "dtype": errors.TangentDtypeMismatch}
        return kinds[what](input=name, expected=expected, actual=actual)
    given = {"shape": errors.InputShapeMismatch, "dtype": errors.InputDtypeMismatch}
    return given[what](input=name, expected=expected, actual=actual)


# -- preparing -------------------------------------------------------------------------------------


def prepare(
    graph: Graph, spec: RunSpec, run_plan: Runner, make_plan: Planner, limits: Limits
) -> Prepared:
    """Check a request against a graph; see `Engine.prepare`."""
    _check_options(spec)
    allowed = limits.grown(graph)
    expects: dict[str, Expected] = {}
    needed: list[str] = []
    points: list[Point] = []
    hidden: frozenset[str] = frozenset()
    for i, step in enumerate(spec.transforms):
        prefix = f"transforms/{i}/"
        derived = derive(graph, step, hidden, prefix, allowed)
        if derived.point is not None:
            expects |= expected_point(graph, prefix, step.inputs, hidden)
            needed += [f"{prefix}inputs/{name}" for name in derived.needed]
            points.append(Point(prefix, derived.point))
            hidden = frozenset(derived.point.residual_names)
        graph = derived.graph
    chosen = select_outputs(graph, spec.outputs)
    question, seed_keys = pose(graph, spec, chosen, hidden)
    axes = question.axes or {}
    for name in spec.inputs:
        declared = find_input(graph, name, hidden)
        expects[f"inputs/{name}"] = _expected(declared.type, axes.get(name))
    for key, output in seed_keys:
        id = dict(question.graph.outputs)[output]
        axis = (question.seed_axes or {}).get(output)
        wanted = _expected(graph.type_of(id), axis)
        expects[f"cotangents/{key}"] = replace(wanted, source=graph.source_of(id))
    for name in spec.tangents:
        axis = (question.tangent_axes or {}).get(name)
        expects[f"tangents/{name}"] = _expected(find_input(graph, name, hidden).type, axis)
    needed += [f"inputs/{i.name}" for i in needed_inputs(question.graph) if i.name not in hidden]
    return Prepared(
        spec,
        expects,
        tuple(needed),
        question,
        tuple(points),
        hidden,
        tuple(seed_keys),
        run_plan,
        make_plan,
    )


def _check_options(spec: RunSpec) -> None:
    check_word("run/mode", spec.mode, MODES)
    check_word("nan_policy", spec.nan_policy, NAN_POLICIES)
    check_word("tier", spec.tier, TIERS)
    if spec.deadline_ms is not None and not spec.deadline_ms >= 0:
        raise errors.InvalidOption(
            path="deadline_ms", value=spec.deadline_ms, reason="it must be at least 0"
        )
    if spec.tier == "compiled":
        raise errors.CompileFailed(reason="this release runs every graph in the interpreted tier")


def expected_point(
    graph: Graph, prefix: str, given: Sequence[str], hidden: frozenset[str] = frozenset()
) -> dict[str, Expected]:
    """The types of the tensors of a linearization's point, by path; raises `UnknownInput`."""
    return {
        f"{prefix}inputs/{name}": _expected(find_input(graph, name, hidden).type, None)
        for name in given
    }


def _expected(declared: Type, axis: int | None) -> Expected:
    shape: list[int | None] = list(declared.shape)
    if axis is not None:
        shape.insert(axis, None)
    return Expected(declared.dtype, tuple(shape))
