"""What a lowering works with: it collects buffers and calls while a graph is scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..ir import Type
from .program import Buffer, Call, HostCall, Kernel, Layout, Operand, dense


class Copier(Protocol):
    """How a layout is copied to another; given by the loop generator."""

    def __call__(self, emit: Emitter, source: Layout, target: Layout) -> None:
        """Emit the copy."""


class Emitter:
    """Buffers and steps of a schedule in the making.

    Args:
        threads: How many chunks a large call should have.
        copy: How strided layouts are copied.

    Attributes:
        narrow: Whether some call of loops over a batch of one leaves threads without work.
    """

    def __init__(self, threads: int, copy: Copier) -> None:
        self.threads = threads
        self.buffers: list[Buffer] = []
        self.steps: list[Call | HostCall] = []
        self._copy = copy
        self.narrow = False

    def temp(self, nbytes: int) -> int:
        """A new buffer that lives from its first to its last use."""
        self.buffers.append(Buffer("temp", nbytes))
        return len(self.buffers) - 1

    def scratch(self, nbytes: int) -> int:
        """A new buffer for what the threads that work on one call need at hand."""
        self.buffers.append(Buffer("scratch", nbytes))
        return len(self.buffers) - 1

    def const(self, array: np.ndarray[Any, Any]) -> int:
        """A buffer that holds an array, which nobody changes any more."""
        held = np.ascontiguousarray(array)
        self.buffers.append(Buffer("const", held.nbytes, array=held))
        return len(self.buffers) - 1

    def value(self, type: Type) -> Layout:
        """A dense temporary value."""
        return dense(self.temp(type.nbytes), type)

    def call(
        self,
        kernel: Kernel,
        operands: Sequence[Layout | Operand],
        words: Sequence[int | float],
        *,
        count: int,
        chunks: int,
        writes: Sequence[int],
        reuse: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Append a call; see `program.Call`. A layout stands for its buffer and offset.

        `writes` are positions in `operands`; scratch buffers belong there too.
        """
        bound = tuple(
            o if isinstance(o, Operand) else Operand(o.buffer, o.byte_offset) for o in operands
        )
        self.steps.append(
            Call(kernel, bound, tuple(words), count, chunks, tuple(writes), tuple(reuse))
        )

    def copy(self, source: Layout, target: Layout) -> None:
        """Copy elements from one layout to another of the same shape and dtype."""
        self._copy(self, source, target)

    def densify(self, source: Layout) -> Layout:
        """The same value, dense: itself if it is so already, else a copy."""
        if source.is_dense:
            return source
        target = self.value(source.type)
        self.copy(source, target)
        return target

    def host(self, op: Any, operands: Sequence[Layout], result: Layout) -> None:
        """Append an op that runs by its NumPy meaning."""
        self.steps.append(HostCall(op, tuple(operands), result))
