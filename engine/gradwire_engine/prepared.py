"""A request checked against a graph: what tensors it expects, and how it runs with them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from . import errors
from .arguments import Argument, check_tensors, gather, in_native_order
from .derive import derive, needed_inputs
from .inspect_values import first_non_finite
from .ir import Graph, Type
from .limits import Limits
from .ops.sources import Const
from .program import Question, build
from .question import pose
from .request import MODES, NAN_POLICIES, TIERS, Expected, RunResult, RunSpec
from .runtime import Deadline, Executable, check_deadline
from .selection import check_word, find_input, select_outputs
from .transform.linearize import Linearization

Array = np.ndarray[Any, Any]
Planner = Callable[[Graph, Deadline], Executable]

CACHED_SIZES = 8


@dataclass(frozen=True)
class Point:
    """A linearization inside a run: where its inputs come from, and which residuals it yields."""

    prefix: str
    split: Linearization


@dataclass(frozen=True)
class Ready:
    """A question's executable graph for one size of the mapped axis.

    Attributes:
        executable: What runs.
        arguments: Where its inputs come from, in order.
        answers: Kind and name of its outputs, in order.
        paths: The same as paths.
    """

    executable: Executable
    arguments: tuple[Argument, ...]
    answers: tuple[tuple[str, str], ...]
    paths: tuple[str, ...]


@dataclass
class Prepared:
    """A checked request. `execute` may be called from many threads at once.

    Attributes:
        expects: The type of every tensor that the caller may give, by path.
        needed: Paths of the tensors that must be given.
        question: What is computed.
        seed_keys: For each cotangent, in order: its key as written and the output it belongs to.
        types: As `expects`, to be compared with arrays.
    """

    spec: RunSpec
    expects: Mapping[str, Expected]
    needed: tuple[str, ...]
    question: Question
    points: tuple[Point, ...]
    hidden: frozenset[str]
    seed_keys: tuple[tuple[str, str], ...]
    types: Mapping[str, tuple[np.dtype[Any], tuple[int | None, ...]]]
    make_plan: Planner
    _ready: OrderedDict[int | None, Ready] = field(default_factory=OrderedDict)
    _point_plans: dict[int, Executable] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def execute(self, tensors: Mapping[str, Array], deadline: Deadline = None) -> RunResult:
        """Run with these tensors, by path.

        Args:
            tensors: Those that `expects` lists, at least those that are `needed`.
            deadline: When to stop; None: what the request says, counted from now.

        Raises:
            EngineError: A tensor is missing or does not fit, a limit is exceeded, the deadline
                passed, or (under ``nan_policy: error``) a value is not finite.
        """
        start = time.perf_counter()
        spec = self.spec
        if deadline is None and spec.deadline_ms is not None:
            deadline = time.monotonic() + spec.deadline_ms / 1e3, spec.deadline_ms
        size = None
        if not self._fits(tensors):
            size = self._check(tensors)
            tensors = {path: in_native_order(array) for path, array in tensors.items()}
        tier = "interpreted" if spec.nan_policy == "error" else spec.tier
        ready = self._ready.get(size) or self._make_ready(size, deadline)
        native = ready.executable.choose(tier, deadline)
        compiled = time.perf_counter()
        residuals = self._residuals(tensors, tier, deadline) if self.points else {}
        if spec.nan_policy == "error":
            self._inspect(tensors, residuals, size, deadline)
        arguments = gather(ready.arguments, tensors, residuals)
        arrays = ready.executable.run(native, arguments, deadline, upgrade=tier == "auto")
        results = dict(zip(ready.paths, arrays, strict=True))
        finished = time.perf_counter()
        ran = "interpreted" if native is None else "compiled"
        return RunResult(results, ran, (compiled - start) * 1e3, (finished - compiled) * 1e3)

    @cached_property
    def constant_bytes(self) -> int:
        """Bytes of the constants in the graph."""
        nodes = self.question.graph.nodes
        return sum(node.type.nbytes for node in nodes if isinstance(node.op, Const))

    @property
    def paths(self) -> tuple[str, ...]:
        """The results that a run answers with, by path (``gradients/x``), in order."""
        return tuple(f"{kind}/{name}" for kind, name in self.question.answers)

    def under(self, spec: RunSpec) -> Prepared:
        """The same request with another deadline; plans are shared."""
        _check_options(spec)
        return replace(self, spec=spec)

    def peak_bytes(self, size: int | None = None) -> int:
        """Bytes of intermediate results and outputs that a run needs by plan.

        Scratch memory of compiled kernels (up to a few hundred kB a thread, blocks of a matrix
        product for example) comes on top; the memory limit counts it too.

        Under ``tier: compiled`` that is the compiled program's plan, which is waited for.

        Args:
            size: The length of the mapped axis, if there is one.

        Raises:
            EngineError: It exceeds the limit, or there is no compiled program to be had.
        """
        ready = self._ready.get(size) or self._make_ready(size, None)
        native = ready.executable.choose(self.spec.tier)
        return ready.executable.plan.peak_bytes if native is None else native.peak_bytes

    def _make_ready(self, size: int | None, deadline: Deadline) -> Ready:
        """Build and plan the executable graph for one size; the last few are kept."""
        made = self._build(self.question, size, deadline)
        with self._lock:
            self._ready[size] = made
            while len(self._ready) > CACHED_SIZES:
                self._ready.popitem(last=False)
        return made

    def _build(self, question: Question, size: int | None, deadline: Deadline) -> Ready:
        program = build(question, size)
        return Ready(
            self.make_plan(program.graph, deadline),
            self._arguments(program.graph, question),
            program.answers,
            tuple(f"{kind}/{name}" for kind, name in program.answers),
        )

    # -- tensors -----------------------------------------------------------------------------------

    def _fits(self, tensors: Mapping[str, Array]) -> bool:
        """Whether tensors are plainly as expected; if not, `_check` says more."""
        if self.question.axes is not None:
            return False
        types = self.types
        for path, array in tensors.items():
            wanted = types.get(path)
            if wanted is None or array.dtype != wanted[0] or array.shape != wanted[1]:
                return False
        return all(path in tensors for path in self.needed)

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

    def _residuals(
        self, tensors: Mapping[str, Array], tier: str, deadline: Deadline
    ) -> dict[str, Array]:
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
            native = plan.choose(tier, deadline)
            arrays = plan.run(native, given, deadline, upgrade=tier == "auto")
            known = dict(zip(point.split.residual_names, arrays, strict=True))
        return known

    def _arguments(self, graph: Graph, question: Question) -> tuple[Argument, ...]:
        """Where each input of an executable graph comes from."""
        m = len(question.graph.inputs)
        live = graph.reachable(id for _, id in graph.outputs)
        arguments = [
            # Live only in form: the answer does not depend on it (or it is a tap, fed zeros).
            Argument(f"inputs/{i.name}", i.name, np.zeros if live[k] else None, i.type)
            for k, i in enumerate(graph.inputs[:m])
        ]
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
            arguments.append(Argument(path, "", default, spec.type))
        return tuple(arguments)

    def _inspect(
        self,
        tensors: Mapping[str, Array],
        residuals: Mapping[str, Array],
        size: int | None,
        deadline: Deadline,
    ) -> None:
        """Under ``nan_policy: error``: look at every value and refuse the first non-finite one."""

        def run(question: Question) -> list[tuple[tuple[str, str], Array]]:
            ready = self._build(question, size, deadline)
            native = ready.executable.choose("interpreted")
            arguments = gather(ready.arguments, tensors, residuals)
            arrays = ready.executable.run(native, arguments, deadline)
            return list(zip(ready.answers, arrays, strict=True))

        fault = first_non_finite(self.question, size is not None, tensors, self.hidden, run)
        if fault is not None:
            raise fault


# -- preparing -------------------------------------------------------------------------------------


def prepare(
    graph: Graph, spec: RunSpec, make_plan: Planner, limits: Limits, deadline: Deadline
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
        check_deadline(deadline)
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
        {path: (np.dtype(wanted.dtype), wanted.shape) for path, wanted in expects.items()},
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
