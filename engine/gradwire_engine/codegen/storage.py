"""Where values live while a schedule is made: inputs, constants, results and temporaries.

A fused graph has the sizes that are planned with; here they become those in memory (see `batch`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..ir import Type
from .batch import elements, layout_in_memory, type_in_memory
from .emit import Emitter
from .fuse import Fusion
from .program import Buffer, Layout, dense


class Storage:
    """Buffers for the values of a fused graph, made when they are first asked for.

    Args:
        fusion: The graph.
        emit: Where buffers are declared.
    """

    def __init__(self, fusion: Fusion, emit: Emitter) -> None:
        self.fusion = fusion
        self._emit = emit
        self._places: dict[int, Layout] = {}
        self.copies: list[tuple[int, Layout]] = []
        for i, spec in enumerate(fusion.graph.inputs):
            type = type_in_memory(spec.type)
            emit.buffers.append(Buffer("input", type.nbytes, index=i))
            self._places[i] = dense(len(emit.buffers) - 1, type)
        for k, (_, id) in enumerate(fusion.graph.outputs):
            self._output(k, id)

    def _output(self, k: int, id: int) -> None:
        """Let output `k` be the memory of its value where that can be, else a copy to be made."""
        layout = self.fusion.layouts[id]
        root = layout.buffer
        type = type_in_memory(layout.type)
        self._emit.buffers.append(Buffer("output", type.nbytes, index=k))
        place = dense(len(self._emit.buffers) - 1, type)
        whole = layout.is_dense and not layout.offset
        whole = whole and layout.type.size == self.fusion.graph.type_of(root).size
        if whole and root in self.fusion.group_of and root not in self._places:
            self._places[root] = dense(place.buffer, self._type(root))
        else:
            self.copies.append((id, place))

    def _type(self, root: int) -> Type:
        return type_in_memory(self.fusion.graph.type_of(root))

    def place(self, root: int) -> Layout:
        """The dense memory of a real value, an input or a constant."""
        found = self._places.get(root)
        if found is None:
            node = self.fusion.node(root)
            assert node is not None
            if node.op.name == "const":
                found = dense(self._emit.const(node.op.value.array), self._type(root))
            elif node.op.name == "iota":
                found = dense(self._emit.const(node.op.numpy()), self._type(root))
            else:
                found = self._emit.value(self._type(root))
            self._places[root] = found
        return found

    def layout(self, id: int) -> Layout:
        """The elements of any value, view or real, where they lie."""
        view = self.fusion.layouts[id]
        node = self.fusion.node(view.buffer)
        if node is not None and node.op.name == "iota":
            steps = self.fusion.layouts[view.buffer]
            if view == steps:
                return self.place(view.buffer)
            # A view of an iota runs over its coordinate, not over its elements.
            axis = node.op.axis % node.type.rank
            return replace(layout_in_memory(view), buffer=self._line(node, axis))
        return self.at(view)

    def _line(self, node: Any, axis: int) -> int:
        size = elements(node.type.shape[axis])
        return self._emit.const(np.arange(size, dtype=node.type.dtype))

    def at(self, view: Layout) -> Layout:
        """A layout by value as a layout by buffer."""
        place = self.place(view.buffer)
        found = layout_in_memory(view)
        return replace(found, buffer=place.buffer, offset=found.offset + place.offset)
