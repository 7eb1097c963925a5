"""The threads that run compiled plans, and the function that Python calls: `Team`.

The work is done by machine code (`driver.py`); here its memory is set up, helper threads are
started, and the built-in function that runs a plan is made. One team serves all plans of a process
that have the same budget. A team starts its helpers when a plan with parallel steps first runs.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable

import numpy as np

from . import words
from .forks import forgets
from .memory import aligned

SPIN_NANOSECONDS = 100_000
"""How long a helper looks for work before it sleeps: waking one takes about as long."""

METH_FASTCALL = 0x80


class _MethodDef(ctypes.Structure):
    """``PyMethodDef`` of Python's stable ABI."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def builtin(address: int) -> Callable[..., int]:
    """The built-in function at an address (`driver.drive`)."""
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    method = _MethodDef(b"drive", address, METH_FASTCALL, None)
    _METHODS.append(method)
    function: Callable[..., int] = new(ctypes.addressof(method), None, None)
    return function


_METHODS: list[_MethodDef] = []  # a built-in function refers to its definition for ever


class Team:
    """A pool of helper threads, which `start` starts.

    Args:
        budget: How many threads may work at a time, callers included.
        help_out: The address of `driver.help_out`.

    Attributes:
        pool: The address of the shared table.
        started: Whether the helpers are there, as far as there are to be any.
    """

    def __init__(self, budget: int, help_out: int) -> None:
        self.budget = budget
        helpers = words.HELPERS + words.HELPER_WORDS * (budget - 1)
        self._memory, self.pool = aligned(8 * (helpers + words.SLOT_WORDS * budget))
        self._help_out = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t, ctypes.c_ssize_t)(help_out)
        self.after_fork()
        forgets(self)

    def after_fork(self) -> None:
        """Begin anew: no helpers are there, and no runs are active."""
        self._lock = threading.Lock()
        self.started = self.budget == 1
        self._memory[:] = 0
        table = self._memory[self.pool - self._memory.ctypes.data :].view(np.int64)
        table[words.BUDGET] = self.budget
        table[words.CLOCK] = time.CLOCK_MONOTONIC
        table[words.SPIN] = SPIN_NANOSECONDS

    def start(self) -> None:
        """Start the helpers, if they are not there yet."""
        with self._lock:
            if self.started:
                return
            library = ctypes.CDLL(None)
            for number in range(self.budget - 1):
                helper = self.pool + 8 * (words.HELPERS + words.HELPER_WORDS * number)
                library.pthread_mutex_init(ctypes.c_void_p(helper + 8 * words.MUTEX), None)
                library.pthread_cond_init(ctypes.c_void_p(helper + 8 * words.CONDITION), None)
                name = f"gradwire-kernels-{number}"
                thread = threading.Thread(
                    target=self._help_out, args=(self.pool, number), name=name, daemon=True
                )
                thread.start()
                ctypes.c_int64.from_address(helper + 8 * words.THREAD).value = thread.native_id or 0
            self.started = True


def processors() -> int:
    """How many processors this process may use: its affinity, or its share in a container."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    return max(1, min(available, _quota()))


def _quota() -> int:
    """Processors that the control group grants, rounded up."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            granted, period = file.read().split()
        return -(-int(granted) // int(period))
    except (OSError, ValueError):  # no control groups of version 2, or "max"
        return os.cpu_count() or 1
