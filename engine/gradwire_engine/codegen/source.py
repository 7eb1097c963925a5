"""The text of a kernel in the making, with the operands and words that it expects."""

from __future__ import annotations

from typing import Any

from .batch import elements
from .expressions import SUFFIX
from .program import Kernel, Layout, Operand

HEADER = """\
import numpy as np
from gradwire_engine.codegen import vmath as vm
from gradwire_engine.codegen.prelude import *


def kernel(frame, args, lo, hi, chunk):
"""


class Source:
    """Collects lines, operands and arguments; names them in the order of their first use.

    Attributes:
        operands: The operands of the call, in order; ``p3`` is the address of number 3.
        writes: Numbers of those that are written.
        words: The arguments after the operands; ``w5`` or ``n5`` is number 5.
        depth: Indentation of the next line.
    """

    def __init__(self) -> None:
        self.operands: list[Layout | Operand] = []
        self.writes: list[int] = []
        self.words: list[int | float] = []
        self.depth = 1
        self._fetches: list[str] = []
        self._opening: list[str] = []
        self._lines: list[str] = []

    def operand(self, layout: Layout | Operand, *, write: bool = False) -> int:
        """A new operand's number, which is also the scope of its loads and stores."""
        self.operands.append(layout)
        number = len(self.operands) - 1
        if write:
            self.writes.append(number)
        return number

    def word(self, value: int) -> str:
        """The name of a new integer argument, planned or not."""
        k = len(self.words)
        self.words.append(elements(value))
        self._fetches.append(f"w{k} = word(args, FIRST + {k})")
        return f"w{k}"

    def number(self, value: Any, dtype: str) -> str:
        """The name of a new argument that is a number of some dtype."""
        k = len(self.words)
        if dtype.startswith("float"):
            self.words.append(float(value))
            fetch = f"{SUFFIX[dtype]}(real(args, FIRST + {k}))"
        else:
            self.words.append(int(value))
            fetch = f"word(args, FIRST + {k})" + ("" if dtype == "int64" else " != 0")
        self._fetches.append(f"n{k} = {fetch}")
        return f"n{k}"

    def opening(self, line: str) -> None:
        """Append a line that runs once, before all others."""
        self._opening.append(line)

    def add(self, *lines: str) -> None:
        """Append lines at the current depth."""
        self._lines += ["    " * self.depth + line for line in lines]

    def take(self) -> list[str]:
        """Remove the lines so far; they may be `put` back later."""
        lines, self._lines = self._lines, []
        return lines

    def put(self, lines: list[str]) -> None:
        """Append lines that `take` has given."""
        self._lines += lines

    def kernel(self, title: str) -> Kernel:
        """The finished kernel."""
        rows = [f"p{k} = operand(frame, args, {k})" for k in range(len(self.operands))]
        fetches = [f.replace("FIRST", str(2 * len(self.operands))) for f in self._fetches]
        opening = ["    " + line for line in (*rows, *fetches, *self._opening)]
        return Kernel(HEADER + "\n".join((*opening, *self._lines)) + "\n", title)
