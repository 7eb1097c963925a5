"""What kernel source may say: memory, constants, choice and reductions, each with two meanings.

With Numba's JIT on, a name here is an intrinsic that becomes one or two LLVM instructions. With it
off (``NUMBA_DISABLE_JIT=1``) the same name is a plain function on NumPy scalars, so that generated
kernels can be read, stepped through and tested as ordinary Python.

Buffers are addresses (int64) and element positions. Every load and store names the *scope* of its
buffer, a small literal: buffers of different scopes never overlap within a kernel, and LLVM is told
so, which is what lets it vectorize a loop over many buffers without run-time checks. Buffers that
may overlap (an operand updated in place) share a scope.
"""

from __future__ import annotations

import ctypes
import struct
from fractions import Fraction
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

JIT = not numba.config.DISABLE_JIT
SCOPES = 64
SPLIT = 6

f32, f64, i32, i64, u64 = np.float32, np.float64, np.int32, np.int64, np.uint64

_I1, _I8, _I32, _I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_F32, _F64 = ir.FloatType(), ir.DoubleType()


def inline(function: Any) -> Any:
    """A helper that kernels call, always inlined; its float arithmetic may contract to FMAs."""
    jit = numba.njit(forceinline=True, fastmath={"contract"}, error_model="numpy")
    return jit(function) if JIT else function


def exact(function: Any) -> Any:
    """As `inline`, where every float operation must be rounded on its own, as written."""
    jit = numba.njit(forceinline=True, fastmath=False, error_model="numpy")
    return jit(function) if JIT else function


# -- memory ----------------------------------------------------------------------------------------


def _scopes(module: Any) -> list[Any]:
    """The alias scopes of a module, one a buffer and one for tables, all in one domain."""
    if not hasattr(module, "_gradwire_scopes"):
        domain = module.add_metadata([ir.MetaDataString(module, "gradwire")])
        module._gradwire_scopes = [
            module.add_metadata([ir.MetaDataString(module, name), domain])
            for name in (*(f"buffer {i}" for i in range(SCOPES)), "tables")
        ]
    scopes: list[Any] = module._gradwire_scopes
    return scopes


def mark(builder: Any, instruction: Any, scope: int) -> None:
    """Say which buffer a load or store touches, and that it touches no other.

    The last scope stands for all buffers beyond; they may overlap for all that LLVM knows.
    """
    _mark(builder, instruction, min(scope, SCOPES - 1))


def _mark(builder: Any, instruction: Any, scope: int) -> None:
    module = builder.module
    scopes = _scopes(module)
    others = [s for i, s in enumerate(scopes) if i != scope]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[scope]]))
    instruction.set_metadata("noalias", module.add_metadata(others))


def _loader(scalar: Any, llvm_type: Any, align: int) -> Any:
    def load(typingctx: Any, address: Any, position: Any, scope: Any) -> Any:
        if not isinstance(scope, types.IntegerLiteral):
            return None
        number = scope.literal_value

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base = builder.inttoptr(args[0], llvm_type.as_pointer())
            result = builder.load(builder.gep(base, [args[1]], inbounds=True), align=align)
            mark(builder, result, number)
            if llvm_type == _I8:
                return builder.icmp_unsigned("!=", result, ir.Constant(_I8, 0))
            return result

        return scalar(types.intp, types.intp, scope), codegen

    return intrinsic(load)


def _storer(scalar: Any, llvm_type: Any, align: int) -> Any:
    def store(typingctx: Any, address: Any, position: Any, value: Any, scope: Any) -> Any:
        if not isinstance(scope, types.IntegerLiteral):
            return None
        number = scope.literal_value

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base = builder.inttoptr(args[0], llvm_type.as_pointer())
            value = builder.zext(args[2], _I8) if llvm_type == _I8 else args[2]
            result = builder.store(value, builder.gep(base, [args[1]], inbounds=True), align=align)
            mark(builder, result, number)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, scalar, scope), codegen

    return intrinsic(store)


def _python_loader(scalar: Any, c_type: Any) -> Any:
    size = ctypes.sizeof(c_type)

    def load(address: int, position: int, scope: int) -> Any:
        return scalar(c_type.from_address(int(address) + size * int(position)).value)

    return load


def _python_storer(c_type: Any) -> Any:
    size = ctypes.sizeof(c_type)

    def store(address: int, position: int, value: Any, scope: int) -> None:
        c_type.from_address(int(address) + size * int(position)).value = value

    return store


if JIT:
    load_f32, store_f32 = _loader(types.float32, _F32, 4), _storer(types.float32, _F32, 4)
    load_f64, store_f64 = _loader(types.float64, _F64, 8), _storer(types.float64, _F64, 8)
    load_i64, store_i64 = _loader(types.int64, _I64, 8), _storer(types.int64, _I64, 8)
    load_bool, store_bool = _loader(types.boolean, _I8, 1), _storer(types.boolean, _I8, 1)
else:
    load_f32, store_f32 = _python_loader(f32, ctypes.c_float), _python_storer(ctypes.c_float)
    load_f64, store_f64 = _python_loader(f64, ctypes.c_double), _python_storer(ctypes.c_double)
    load_i64, store_i64 = _python_loader(i64, ctypes.c_int64), _python_storer(ctypes.c_int64)
    load_bool, store_bool = _python_loader(np.bool_, ctypes.c_bool), _python_storer(ctypes.c_bool)


# -- fetching ahead --------------------------------------------------------------------------------


def _fetcher(write: bool) -> Any:
    """Code that asks for one cache line, to be read or written soon."""

    def fetch(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], _I8.as_pointer())
            name, module = "llvm.prefetch.p0", builder.module
            function = module.globals.get(name)
            if function is None:
                kinds = [pointer.type, _I32, _I32, _I32]
                function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
            builder.call(function, [pointer, _I32(int(write)), _I32(3), _I32(1)])
            return context.get_dummy_value()

        return types.void(types.intp), codegen

    return intrinsic(fetch)


_LINE = 64
_ask_to_read, _ask_to_write = _fetcher(write=False), _fetcher(write=True)


@inline
def _fetch_read(address: int, first: int, last: int) -> None:
    for at in range(address + first, address + last, _LINE):
        _ask_to_read(at)


@inline
def _fetch_write(address: int, first: int, last: int) -> None:
    for at in range(address + first, address + last, _LINE):
        _ask_to_write(at)


def _python_fetch(address: int, first: int, last: int) -> None:
    """Nothing: what Python touches comes when it does."""


fetch_read = _fetch_read if JIT else _python_fetch
"""``fetch_read(p, first, last)``: ask for these bytes behind p, read soon; they may not exist."""

fetch_write = _fetch_write if JIT else _python_fetch
"""``fetch_write(p, first, last)``: ask for bytes that are written soon."""


# -- arguments -------------------------------------------------------------------------------------


def _entry(builder: Any, address: Any, position: Any, llvm_type: Any = _I64) -> Any:
    """The entry of a table that does not change while a kernel runs."""
    base = builder.inttoptr(address, llvm_type.as_pointer())
    result = builder.load(builder.gep(base, [position], inbounds=True), align=8)
    result.set_metadata("invariant.load", builder.module.add_metadata([]))
    return result


@intrinsic
def _word(typingctx: Any, address: Any, position: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _entry(builder, args[0], args[1])

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def _real(typingctx: Any, address: Any, position: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _entry(builder, args[0], args[1], _F64)

    return types.float64(types.intp, types.intp), codegen


@intrinsic
def _operand(typingctx: Any, frame: Any, args: Any, k: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        frame, table, k = args
        first = builder.shl(k, _I64(1))
        slot = _entry(builder, table, first)
        offset = _entry(builder, table, builder.add(first, _I64(1)))
        return builder.add(_entry(builder, frame, slot), offset)

    return types.intp(types.intp, types.intp, types.intp), codegen


def _python_word(address: int, position: int) -> int:
    return int(ctypes.c_int64.from_address(int(address) + 8 * int(position)).value)


def _python_real(address: int, position: int) -> Any:
    return f64(struct.unpack("d", struct.pack("q", _python_word(address, position)))[0])


def _python_operand(frame: int, args: int, k: int) -> int:
    return _python_word(frame, _python_word(args, 2 * k)) + _python_word(args, 2 * k + 1)


word: Any = _word if JIT else _python_word
"""``word(args, i)``: the i-th int64 of an argument table; never changes while a kernel runs."""

real: Any = _real if JIT else _python_real
"""``real(args, i)``: the i-th word of an argument table, a float64."""


operand: Any = _operand if JIT else _python_operand
"""``operand(frame, args, k)``: the address of a call's k-th operand.

Words 2k and 2k+1 are its frame slot and offset. It is no function, of which Numba would compile one
for every k.
"""


# -- values ----------------------------------------------------------------------------------------


@intrinsic
def _select(typingctx: Any, condition: Any, a: Any, b: Any) -> Any:
    if a != b:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    return a(types.boolean, a, b), codegen


@intrinsic
def _accumulate(typingctx: Any, total: Any, term: Any) -> Any:
    if total != term or not isinstance(total, types.Float):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1], flags=("reassoc", "nsz", "contract"))

    return total(total, term), codegen


def _llvm_pair(name: str) -> Any:
    """An LLVM intrinsic function of two floats of one type."""

    def pair(typingctx: Any, a: Any, b: Any) -> Any:
        if a != b or not isinstance(a, types.Float):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            suffix = "f32" if kind == _F32 else "f64"
            full = f"llvm.{name}.{suffix}"
            function = builder.module.globals.get(full)
            if function is None:
                function = ir.Function(builder.module, ir.FunctionType(kind, [kind, kind]), full)
            return builder.call(function, args)

        return a(a, b), codegen

    return intrinsic(pair)


def _python_select(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _python_maximum(a: Any, b: Any) -> Any:
    return np.maximum(a, b)


def _python_minimum(a: Any, b: Any) -> Any:
    return np.minimum(a, b)


def _python_add(a: Any, b: Any) -> Any:
    return a + b


select = _select if JIT else _python_select
"""``select(c, a, b)``: a where c holds, else b; both are computed."""

maximum = _llvm_pair("maximum") if JIT else _python_maximum
"""The larger float; NaN wins. Reductions by it vectorize."""

minimum = _llvm_pair("minimum") if JIT else _python_minimum
"""The smaller float; NaN wins."""

accumulate = _accumulate if JIT else _python_add
"""``total = accumulate(total, term)``: a sum whose order is free, so that it vectorizes."""


# -- floats in detail ------------------------------------------------------------------------------


def _llvm_float(name: str, arity: int) -> Any:
    """An LLVM intrinsic function of one or three floats of one type."""

    def call(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        full = f"llvm.{name}.{'f32' if kind == _F32 else 'f64'}"
        function = builder.module.globals.get(full)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * arity), full)
        return builder.call(function, args)

    def one(typingctx: Any, a: Any) -> Any:
        return (a(a), call) if isinstance(a, types.Float) else None

    def three(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return (a(a, b, c), call) if isinstance(a, types.Float) and a == b == c else None

    return intrinsic({1: one, 3: three}[arity])


def _bitcast(source: Any, target: Any, llvm_type: Any) -> Any:
    def cast(typingctx: Any, a: Any) -> Any:
        if a != source:
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], llvm_type)

        return target(source), codegen

    return intrinsic(cast)


@intrinsic
def _lookup(typingctx: Any, table: Any, position: Any) -> Any:
    if not isinstance(table, types.Array) or table.ndim != 1 or table.layout != "C":
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(table)(context, builder, args[0]).data
        result = builder.load(builder.gep(data, [args[1]], inbounds=True))
        _mark(builder, result, SCOPES)
        return result

    return table.dtype(table, types.intp), codegen


def _python_lookup(table: Any, position: Any) -> Any:
    return table[position]


@intrinsic
def _polynomial(typingctx: Any, x: Any, coefficients: Any) -> Any:
    if not isinstance(coefficients, types.UniTuple) or coefficients.dtype != x:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, table = args
        size = len(coefficients)

        def plus(total: Any, factor: Any, term: Any) -> Any:
            product = builder.fmul(total, factor, flags=("contract",))
            return builder.fadd(product, term, flags=("contract",))

        def horner(factor: Any, places: range) -> Any:
            total, *terms = (builder.extract_value(table, i) for i in places)
            for term in terms:
                total = plus(total, factor, term)
            return total

        if size < SPLIT:
            return horner(value, range(size))
        square = builder.fmul(value, value, flags=("contract",))
        odd, even = (horner(square, range((size - rest) % 2, size, 2)) for rest in (0, 1))
        return plus(odd, value, even)

    return x(x, coefficients), codegen


def _python_fma(a: Any, b: Any, c: Any) -> Any:
    if not np.isfinite(a * b + c):
        return a * b + c
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    return type(a)(float(exact)) if exact else a * b + c


def _python_polynomial(x: Any, coefficients: tuple[Any, ...]) -> Any:
    def horner(factor: Any, terms: tuple[Any, ...]) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = total * factor + term
        return total

    size = len(coefficients)
    if size < SPLIT:
        return horner(x, coefficients)
    odd, even = (horner(x * x, coefficients[(size - rest) % 2 :: 2]) for rest in (0, 1))
    return odd * x + even


fma = _llvm_float("fma", 3) if JIT else _python_fma
"""``fma(a, b, c)``: a * b + c, rounded once."""

sqrt = _llvm_float("sqrt", 1) if JIT else np.sqrt
"""The square root, NaN below 0."""

floor = _llvm_float("floor", 1) if JIT else np.floor
"""The largest whole float not above."""

magnitude = _llvm_float("fabs", 1) if JIT else np.abs
"""A float without its sign, NaN included."""

copysign = _llvm_pair("copysign") if JIT else np.copysign
"""``copysign(a, b)``: a with the sign of b."""

bits_f32 = _bitcast(types.float32, types.int32, _I32) if JIT else lambda x: x.view(i32)
"""The bits of a float32, as int32."""

bits_f64 = _bitcast(types.float64, types.int64, _I64) if JIT else lambda x: x.view(i64)
"""The bits of a float64, as int64."""

float_f32 = _bitcast(types.int32, types.float32, _F32) if JIT else lambda b: b.view(f32)
"""The float32 that an int32 is the bits of."""

float_f64 = _bitcast(types.int64, types.float64, _F64) if JIT else lambda b: b.view(f64)
"""The float64 that an int64 is the bits of."""

lookup = _lookup if JIT else _python_lookup
"""``lookup(table, i)``: an element of a constant, contiguous array; i is not negative."""

polynomial = _polynomial if JIT else _python_polynomial
"""``polynomial(x, (a, ..., b, c))``: a x^n + ... + b x + c by Horner's rule, contracted to FMAs.

Where it is long, odd and even powers are summed apart, so that two chains of operations overlap.
"""


@intrinsic
def _divide(typingctx: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.udiv(args[0], args[1])

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def _remainder(typingctx: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.urem(args[0], args[1])

    return types.intp(types.intp, types.intp), codegen


def _python_divide(a: int, b: int) -> int:
    return a // b


def _python_remainder(a: int, b: int) -> int:
    return a % b


divide = _divide if JIT else _python_divide
"""``divide(a, b)``: the whole quotient of positions, neither negative."""

remainder = _remainder if JIT else _python_remainder
"""``remainder(a, b)``: what `divide` leaves."""


@inline
def least(a: int, b: int) -> int:
    """The smaller of two positions."""
    return select(a < b, a, b)
