"""Vector instructions for kernels that cannot leave vectorization to LLVM.

Numba has no vector types, so an inner loop that must keep its sums in registers is written as LLVM
instructions: with `Vectors` for the parts, and with a twin in plain Python for when Numba's JIT is
off. `own` makes a function of the two.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...ir import ITEMSIZE
from ..prelude import JIT

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


WIDE = bool(llvm.get_host_cpu_features().get("avx512f"))
"""Whether this machine has 32 registers of 64 bytes, rather than 16 of 32 bytes."""

VECTOR_BYTES = 64 if WIDE else 32
LINE_BYTES = 64


def lanes(dtype: str) -> int:
    """How many elements a vector register holds."""
    return VECTOR_BYTES // ITEMSIZE[dtype]


class Vectors:
    """Appends instructions on vectors of one dtype at the place where a builder stands.

    Args:
        builder: The builder of a function body.
        dtype: ``float32`` or ``float64``.
    """

    def __init__(self, builder: Any, dtype: str) -> None:
        self.builder = builder
        self.lanes = lanes(dtype)
        self.item = ITEMSIZE[dtype]
        self.element = ir.FloatType() if dtype == "float32" else ir.DoubleType()
        self.type = ir.VectorType(self.element, self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)
        self._scalar = "f32" if dtype == "float32" else "f64"
        self._suffix = f"v{self.lanes}{self._scalar}"

    def at(self, pointer: Any, position: Any) -> Any:
        """The pointer that many elements on."""
        return self.builder.gep(pointer, [position], inbounds=True)

    def pointer(self, address: Any) -> Any:
        """An address as a pointer to elements."""
        return self.builder.inttoptr(address, self.element.as_pointer())

    def opaque(self, pointer: Any) -> Any:
        """The same pointer, such that LLVM does not see how it came about.

        In an unrolled loop LLVM prefers to work out all addresses in advance, more than there are
        registers for.
        """
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.builder.asm(kind, "", "=r,0", [pointer], side_effect=False)

    def splat(self, scalar: Any) -> Any:
        """A vector of equal elements."""
        kind = ir.VectorType(scalar.type, self.lanes)
        blank = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(blank, scalar, I32(0))
        return self.builder.shuffle_vector(one, blank, self._places([0] * self.lanes))

    def load(self, pointer: Any, mask: Any = None) -> Any:
        """The vector at a pointer; 0 where a mask does not hold, and nothing is read there."""
        place = self._place(pointer)
        if mask is None:
            return self.builder.load(place, align=self.item)
        kinds = [place.type, I32, mask.type, self.type]
        function = self._function("masked.load", f"{self._suffix}.p0", self.type, kinds)
        return self.builder.call(function, [place, I32(self.item), mask, self.zero])

    def store(self, vector: Any, pointer: Any, mask: Any = None) -> None:
        """Store a vector, or those of its elements for which a mask holds."""
        place = self._place(pointer)
        if mask is None:
            self.builder.store(vector, place, align=self.item)
            return
        kinds = [self.type, place.type, I32, mask.type]
        function = self._function("masked.store", f"{self._suffix}.p0", ir.VoidType(), kinds)
        self.builder.call(function, [vector, place, I32(self.item), mask])

    def count(self, elements: Any, unit: int | None = None) -> Any:
        """How many vectors hold so many elements, or how many units of so many."""
        size = unit or self.lanes
        return self.builder.sdiv(self.builder.add(elements, I64(size - 1)), I64(size))

    def first(self, count: Any, skipped: int = 0) -> Any:
        """The mask that holds in lane i if ``skipped + i < count``."""
        numbers = ir.Constant(
            ir.VectorType(I64, self.lanes), [I64(skipped + i) for i in range(self.lanes)]
        )
        return self.builder.icmp_signed("<", numbers, self.splat(count))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Multiply and add: a * b + c, rounded once; of vectors, or of elements."""
        suffix = self._suffix if a.type == self.type else self._scalar
        function = self._function("fma", suffix, a.type, [a.type] * 3)
        return self.builder.call(function, [a, b, c])

    def total(self, vector: Any) -> Any:
        """The sum of a vector's elements."""
        name, kinds = "vector.reduce.fadd", [self.element, self.type]
        function = self._function(name, self._suffix, self.element, kinds)
        return self.builder.call(
            function, [ir.Constant(self.element, 0.0), vector], fastmath=("reassoc",)
        )

    def prefetch(self, pointer: Any, *, write: bool) -> None:
        """Fetch the cache line at a pointer, which is read or written soon."""
        function = self._function("prefetch", "p0", ir.VoidType(), [pointer.type, I32, I32, I32])
        self.builder.call(function, [pointer, I32(int(write)), I32(3 if write else 2), I32(1)])

    def transposed(self, rows: Sequence[Any]) -> list[Any]:
        """Columns of a square of as many vectors as a vector has lanes.

        Round by round, blocks of 1, 2, 4, ... lanes change places between rows as far apart.
        """
        vectors, span = list(rows), 1
        while span < self.lanes:
            every = range(self.lanes)
            low = [i - span + self.lanes if i & span else i for i in every]
            high = [i + self.lanes if i & span else i + span for i in every]
            for i in every:
                if not i & span:
                    a, b = vectors[i], vectors[i + span]
                    vectors[i] = self.builder.shuffle_vector(a, b, self._places(low))
                    vectors[i + span] = self.builder.shuffle_vector(a, b, self._places(high))
            span *= 2
        return vectors

    def repeat(
        self, count: Any, state: Sequence[Any], body: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> list[Any]:
        """A loop: `count` times, `body` makes the next state of the last one; the final state."""
        before = self.builder.block
        head, inside, after = (self.builder.append_basic_block(n) for n in ("head", "body", "end"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        current = [self.builder.phi(value.type) for value in (count, *state)]
        for phi, value in zip(current, (count, *state), strict=True):
            phi.add_incoming(value, before)
        self.builder.cbranch(self.builder.icmp_signed(">", current[0], I64(0)), inside, after)
        self.builder.position_at_end(inside)
        following = [self.builder.sub(current[0], I64(1)), *body(current[1:])]
        for phi, value in zip(current, following, strict=True):
            phi.add_incoming(value, self.builder.block)
        back = self.builder.branch(head)
        back.set_metadata("llvm.loop", self._rolled())
        self.builder.position_at_end(after)
        return current[1:]

    def _rolled(self) -> Any:
        """What marks a loop as not to be unrolled: it is written as it should run."""
        module = self.builder.module
        flag = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
        mark = ir.values.MDValue(module, (), str(len(module.metadata)))
        mark.operands = (mark, flag)  # the first operand, itself, tells one loop from another
        return mark

    def _place(self, pointer: Any) -> Any:
        return self.builder.bitcast(pointer, self.type.as_pointer())

    @staticmethod
    def _places(numbers: Sequence[int]) -> Any:
        return ir.Constant(ir.VectorType(I32, len(numbers)), [I32(i) for i in numbers])

    def _function(self, name: str, suffix: str, result: Any, kinds: Sequence[Any]) -> Any:
        full, module = f"llvm.{name}.{suffix}", self.builder.module
        known = module.globals.get(full)
        return known or ir.Function(module, ir.FunctionType(result, kinds), full)


def own(name: str, plain: Any, body: Callable[[Any, Any], None], **kinds: Any) -> Any:
    """A function without result that kernels call and that is never inlined.

    What is called from several places is so compiled once, and has all registers for itself.

    Args:
        name: Its name in a module; functions of one name are the same.
        plain: What it does, in Python: its parameters, and its twin with Numba's JIT off.
        body: Appends its instructions, given a builder and its arguments.
        kinds: Numba's types of the parameters that are not words.
    """
    if not JIT:
        return plain
    parameters = inspect.signature(plain).parameters.values()
    signature = types.void(*(kinds.get(p.name, types.intp) for p in parameters))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = builder.module.globals.get(name)
        if function is None:
            llvm_types = [value.type for value in args]
            kind = ir.FunctionType(ir.VoidType(), llvm_types)
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            function.attributes.add("nounwind")
            inside = ir.IRBuilder(function.append_basic_block("entry"))
            body(inside, function.args)
            inside.ret_void()
        builder.call(function, args)
        return context.get_dummy_value()

    def typed(typingctx: Any, *args: Any) -> Any:
        return signature, codegen

    context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    typed.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    return intrinsic(typed)


def view(
    address: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Memory as a NumPy array, for the plain twins of intrinsics; strides in elements."""
    item = ITEMSIZE[dtype]
    memory = memoryview((ctypes.c_char * item).from_address(int(address)))
    origin = np.ndarray((1,), dtype, memory)
    return np.lib.stride_tricks.as_strided(
        origin, tuple(map(int, shape)), tuple(int(s) * item for s in strides)
    )
