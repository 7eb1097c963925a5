"""The engine: everything that a service or a program calls to run and to transform graphs.

`Engine.prepare` checks a request against a graph without its tensors, and says which tensors it
expects; `Prepared.execute` takes them and answers. Preparations and plans are kept, so that the
same request against the same graph costs a lookup.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import check_tensors
from .derive import bind, derive
from .ir import Graph
from .limits import Limits, check_program
from .ops import REVERSE_ONLY, find
from .passes import optimize
from .prepared import Prepared, expected_point, prepare
from .request import RunSpec, TransformSpec
from .runtime import (
    Deadline,
    Executable,
    Programs,
    Tally,
    check_deadline,
    compiler_for,
    make_plan,
    processors,
    unavailable,
)
from .transform.jvp import reverse_only_nodes

Array = np.ndarray[Any, Any]

CACHED_PREPARATIONS = 512

CACHED_VALUES = 200_000
"""How many values the graphs of all cached preparations may have: plans hold several times that."""

CACHED_BYTES = 2**30
"""How many bytes of constants they may hold, in memory or as files that are mapped into it."""


class Engine:
    """Runs and transforms graphs. Safe to share between threads.

    Args:
        memory_limit: Bytes of intermediate and output buffers that a run may need at once, and that
            one value may take; None: no limit.
        compile: Make compiled programs of what is run, in the background.
        threads: How many threads may work at a time on all compiled runs of this process; None, or
            more than there are processors: as many as those.
        cache_dir: Where compiled kernels are kept; None: ``GRADWIRE_CACHE_DIR``, or the user's
            cache directory.
        check_types: Compare every intermediate result with its static type; for tests.
    """

    def __init__(
        self,
        *,
        memory_limit: int | None = None,
        compile: bool = True,
        threads: int | None = None,
        cache_dir: Path | None = None,
        check_types: bool = False,
    ) -> None:
        self.memory_limit = memory_limit
        self.limits = Limits(memory_limit)
        self.check_types = check_types
        self._programs: Programs | str = "this engine was made to interpret only"
        if compile:
            reason = unavailable()
            budget = min(threads or processors(), processors())
            self._programs = reason or Programs(compiler_for(cache_dir), budget)
        self._cache: OrderedDict[tuple[str, str], Prepared] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def compilations(self) -> Tally:
        """What has been compiled in this process for this engine's cache directory."""
        return Tally() if isinstance(self._programs, str) else self._programs.compiler.tally

    def cache_bytes(self) -> int:
        """Bytes of the compiled kernels that are kept on disk."""
        return 0 if isinstance(self._programs, str) else self._programs.compiler.cache.nbytes()

    def prepare(self, graph: Graph, spec: RunSpec, deadline: Deadline = None) -> Prepared:
        """Check a request and make it ready to run; no tensors are needed yet.

        Args:
            graph: What is to run.
            spec: The run and its options.
            deadline: When to stop; it is looked at between the transforms that the run asks for.

        Raises:
            EngineError: An option, a name or an output is not acceptable, or the deadline passed.
        """
        key = (graph.content_hash, spec.key)
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
        if found is not None:
            return found if found.spec == spec else found.under(spec)
        made = prepare(graph, spec, self._plan, self.limits, deadline)
        with self._lock:
            self._cache[key] = made
            while len(self._cache) > 1 and (
                len(self._cache) > CACHED_PREPARATIONS
                or sum(kept.question.graph.size for kept in self._cache.values()) > CACHED_VALUES
                or sum(kept.constant_bytes for kept in self._cache.values()) > CACHED_BYTES
            ):
                self._cache.popitem(last=False)
        return made

    def forget(self, graph: Graph) -> None:
        """Let go of what is kept for a graph, such as constants that are files."""
        with self._lock:
            for key in [key for key in self._cache if key[0] == graph.content_hash]:
                del self._cache[key]

    def transform(
        self, graph: Graph, spec: TransformSpec, tensors: Mapping[str, Array] | None = None
    ) -> Graph:
        """The derived graph, with names and origins.

        Args:
            graph: What is transformed.
            spec: The transform and its options.
            tensors: For ``linearize``: the point, by path ``inputs/<name>``.

        Raises:
            EngineError: An option, a name, an output or a tensor is not acceptable.
        """
        derived = derive(graph, spec, limits=self.limits.grown(graph))
        if derived.point is None:
            return derived.graph
        given = tensors or {}
        expects = expected_point(graph, "", [path.removeprefix("inputs/") for path in given])
        check_tensors(expects, [f"inputs/{name}" for name in derived.needed], given)
        residual = derived.point.residual
        if not residual.outputs:
            return derived.graph
        arguments = [given.get(f"inputs/{spec.name}") for spec in residual.inputs]
        executable = self._plan(residual)
        arrays = executable.run(executable.choose("interpreted"), arguments)
        return bind(derived.point, derived.graph, arrays)

    def jvp_availability(self, graph: Graph) -> dict[str, Any]:
        """Whether forward mode is available for a graph, and the reverse-only ops in it."""
        m = len(graph.inputs)
        ops = sorted({graph.nodes[id - m].op.name for id in reverse_only_nodes(graph)})
        return {"available": not ops, "reverse_only": ops}

    @staticmethod
    def reverse_only_ops() -> tuple[str, ...]:
        """GraphM's list of ops without forward mode; empty by construction."""
        return REVERSE_ONLY

    @staticmethod
    def op_jvp_availability(name: str) -> str:
        """``implemented`` or ``reverse_only``; raises `UnknownOp` for a name it does not know."""
        return find(name).jvp_availability()

    def _plan(self, graph: Graph, deadline: Deadline = None) -> Executable:
        """Optimize and schedule; refuse values that would not fit.

        Raises:
            MemoryLimit, InvalidShape: A value exceeds the limits.
            DeadlineExceeded: The deadline passed between two passes.
        """
        unchecked = True

        def between(passed: Graph) -> Graph:
            nonlocal unchecked
            if unchecked:  # the first pass has lowered the graph: every value is there to see
                check_program(passed, self.memory_limit)
                unchecked = False
            check_deadline(deadline)
            return passed

        return Executable(
            make_plan(optimize(graph, between)),
            self._programs,
            memory_limit=self.memory_limit,
            check_types=self.check_types,
        )
