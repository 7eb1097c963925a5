"""The driver with Numba's JIT switched off: kernels are Python functions, called one by one.

It does what `driver.drive` does, on the same tables; the address of a kernel is its number.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import words


class PythonDriver:
    """A stand-in for the built-in function that runs programs."""

    def __init__(self) -> None:
        self._kernels: list[Callable[..., None]] = []

    def add(self, kernel: Callable[..., None]) -> int:
        """Make a kernel known; its number."""
        self._kernels.append(kernel)
        return len(self._kernels) - 1

    def __call__(
        self,
        program: int,
        pool: int,  # noqa: ARG002 # nobody helps
        frame: int,
        first: int,
        last: int,
        deadline: int,
        *arrays: Any,
    ) -> int:
        """Run steps; see `driver.drive`."""
        consts = _word(program, words.CONSTS)
        if arrays:
            table = [frame + _word(program, words.FRAME_BYTES)]
            table += [_word(program, words.HEADER_WORDS + k) for k in range(consts)]
            table += [array.ctypes.data for array in arrays]
            content = np.array(table, np.int64).tobytes()
            ctypes.memmove(frame, content, len(content))
        for step in range(first, last):
            if deadline and time.clock_gettime_ns(time.CLOCK_MONOTONIC) > deadline:
                return step
            base = words.HEADER_WORDS + consts + words.STEP_WORDS * step
            kernel, args, count, chunks = (_word(program, base + k) for k in range(4))
            with np.errstate(all="ignore"):
                for c in range(chunks):
                    lo, hi = c * count // chunks, (c + 1) * count // chunks
                    self._kernels[kernel](frame, args, lo, hi, c)
        return last


def _word(address: int, position: int) -> int:
    return ctypes.c_int64.from_address(address + 8 * position).value
