"""Two tiers of one plan: NumPy at once, compiled code as soon as it is there.

An `Executable` is run by its NumPy meaning until its compiled program has been made, which the
first run asks for and no run under ``tier: auto`` waits for. Both answer alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import errors
from ..codegen.bind import GLANCE_SECONDS, Native
from ..codegen.programs import Programs, Upgrade, jit_is_off
from ..codegen.schedule import schedule
from .interpreter import execute
from .plan import Plan

Array = np.ndarray[Any, Any]

Deadline = tuple[float, float] | None
"""The moment by `time.monotonic`, and the milliseconds as the caller stated them."""


def check_deadline(deadline: Deadline) -> None:
    """Raise `DeadlineExceeded` once the moment is past."""
    if deadline is not None and time.monotonic() > deadline[0]:
        raise errors.DeadlineExceeded(deadline_ms=deadline[1])


class Executable:
    """A plan that can be run. Safe to share between threads.

    Args:
        plan: The interpreted tier's plan.
        programs: Who makes the compiled program; a text instead says why nobody does.
        memory_limit: Bytes of intermediate and output buffers that a run may need; None: no limit.
        check_types: Compare every interpreted result with its static type.
    """

    def __init__(
        self,
        plan: Plan,
        programs: Programs | str,
        *,
        memory_limit: int | None = None,
        check_types: bool = False,
    ) -> None:
        self.plan = plan
        self._programs = programs
        self._limit = memory_limit
        self._check_types = check_types
        self._upgrade: Upgrade | None = None
        self._native: Native | None = None
        self._lock = threading.Lock()

    def choose(self, tier: str, deadline: Deadline = None) -> Native | None:
        """The compiled program that a run is to use; None: it is to be interpreted.

        Under ``tier: compiled`` this waits until the program is there.

        Raises:
            MemoryLimit: The planned peak of the tier that would run exceeds the limit.
            CompileFailed: ``tier: compiled``, and there is no compiled program to be had.
            DeadlineExceeded: The deadline passed before the program was there.
        """
        if tier != "interpreted" and self._native is not None:
            return self._native
        if tier == "compiled":
            return self._wait(deadline)
        ready = self._upgrade.native if tier == "auto" and self._upgrade is not None else None
        if ready is not None and self._fits(ready.needed_bytes):
            self._native = ready
            return ready
        self._admit(self.plan.peak_bytes)
        return None

    def run(
        self,
        native: Native | None,
        arguments: Sequence[Array | None],
        deadline: Deadline = None,
        *,
        upgrade: bool = False,
    ) -> list[Array]:
        """Run with what `choose` answered.

        Args:
            native: The compiled program, or None.
            arguments: One array for each input, in order; None where no step reads it.
            deadline: When to stop.
            upgrade: After an interpreted run, ask for the compiled program.

        Returns:
            One contiguous array for each output, in order; none aliases an argument or another
            output.

        Raises:
            DeadlineExceeded: The deadline passed between two steps.
        """
        if native is not None:
            return native.run(arguments, deadline)
        moment, stated = deadline if deadline is not None else (None, 0.0)
        try:
            return execute(
                self.plan,
                arguments,
                deadline=moment,
                deadline_ms=stated,
                check_types=self._check_types,
            )
        finally:
            if upgrade and not jit_is_off():  # kernels as Python functions are for debugging
                self._ask()

    def _ask(self) -> Upgrade | None:
        """Ask for the compiled program, once; None if there is nobody to ask."""
        if isinstance(self._programs, str):
            return None
        upgrade = self._upgrade
        if upgrade is None or upgrade.lapsed:
            with self._lock:
                upgrade = self._upgrade
                if upgrade is None or upgrade.lapsed:
                    make = partial(schedule, self.plan.graph, self._programs.threads)
                    upgrade = self._upgrade = self._programs.request(make)
        return upgrade

    def _wait(self, deadline: Deadline) -> Native:
        upgrade = self._ask()
        if upgrade is None:
            raise errors.CompileFailed(reason=str(self._programs))
        while not upgrade.wait(GLANCE_SECONDS):
            check_deadline(deadline)
        if upgrade.native is None:
            raise errors.CompileFailed(reason=str(upgrade.reason))
        self._admit(upgrade.native.needed_bytes)
        self._native = upgrade.native
        return self._native

    def _fits(self, peak: int) -> bool:
        return self._limit is None or peak <= self._limit

    def _admit(self, peak: int) -> None:
        if self._limit is not None and peak > self._limit:
            raise errors.MemoryLimit(limit=self._limit, actual=peak)
