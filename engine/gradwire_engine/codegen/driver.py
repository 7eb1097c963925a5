"""The loop that runs a compiled plan, and the threads that help it: source text for machine code.

One call from Python runs a plan, however many kernels there are. Chunks of a step are independent;
`team.py` owns a pool of threads that help whoever has chunks to spare. Everything below runs
without the interpreter; the memory it shares is a table of int64 words, whose places the constants
name. An *offset* is in words.

A caller *posts* a region: it writes kernel, frame, arguments, count and chunks into its slot, then
the slot's ticket: a generation number and the number of chunks that are left. Whoever wants a chunk
reads the ticket, reads the region, and takes one off the ticket by compare-and-swap: success proves
that the region read is the one posted, since each post has its own generation and a region is only
rewritten when nothing of it is left. The caller works too, so that it depends on nobody, and waits
for those that helpers have begun.

Helpers that find nothing look around for `SPIN` nanoseconds and then sleep on a condition
variable. Helper i helps only while fewer than `budget - i` runs are active: every run occupies the
thread that called it, and no more threads than the budget allows work at a time.
"""

from __future__ import annotations

import sys
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .prelude import word
from .words import (
    ACTIVE,
    AWAY_FROM,
    BUDGET,
    CLOCK,
    CONDITION,
    CONSTS,
    DATA,
    DONE,
    FRAME_BYTES,
    HEADER_WORDS,
    HELPER_WORDS,
    HELPERS,
    HOLDS_GIL,
    MOST_CHUNKS,
    MUTEX,
    OWNER,
    PROCESSORS,
    PROCESSORS_WORDS,
    REGION,
    SLOT_WORDS,
    SPIN,
    STEP_WORDS,
    THREAD,
)

DRIVE = "intp(intp, intp, intp)"
HELP = "void(intp, intp)"

_LINUX = sys.platform == "linux"

_CHUNKS = (1 << 20) - 1
"""The bits of a ticket that count chunks; those above are its generation."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)

inline = numba.njit(inline="always", error_model="numpy")  # compiled once, with its caller


def _external(name: str, result: Any, *arguments: Any) -> Any:
    return types.ExternalFunction(name, result(*arguments))


_mutex_lock = _external("pthread_mutex_lock", types.int32, types.intp)
_mutex_unlock = _external("pthread_mutex_unlock", types.int32, types.intp)
_condition_wait = _external("pthread_cond_wait", types.int32, types.intp, types.intp)
_condition_signal = _external("pthread_cond_signal", types.int32, types.intp)
_yield_processor = _external("sched_yield", types.int32)
_processor = _external("sched_getcpu", types.int32)
_get_affinity = _external("sched_getaffinity", types.int32, types.int32, types.intp, types.intp)
_set_affinity = _external("sched_setaffinity", types.int32, types.int32, types.intp, types.intp)
_to_word = _external("PyLong_AsSsize_t", types.intp, types.intp)
_from_word = _external("PyLong_FromSsize_t", types.intp, types.intp)
_release_gil = _external("PyEval_SaveThread", types.intp)
_acquire_gil = _external("PyEval_RestoreThread", types.void, types.intp)


# -- instructions ----------------------------------------------------------------------------------


def _pointer(builder: Any, args: Any) -> Any:
    return builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]], inbounds=True)


@intrinsic
def _read(typingctx: Any, base: Any, offset: Any) -> Any:
    """The word at an offset, as other threads left it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args), "seq_cst", 8)

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def _write(typingctx: Any, base: Any, offset: Any, value: Any) -> Any:
    """Set the word at an offset, for other threads to see, after all that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _pointer(builder, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def _put(typingctx: Any, base: Any, offset: Any, value: Any) -> Any:
    """Set the word at an offset that no other thread reads yet."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(builder, args), align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def _add(typingctx: Any, base: Any, offset: Any, value: Any) -> Any:
    """Add to the word at an offset, in one step; the sum."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        before = builder.atomic_rmw("add", _pointer(builder, args), args[2], "seq_cst")
        return builder.add(before, args[2])

    return types.intp(types.intp, types.intp, types.intp), codegen


@intrinsic
def _swap(typingctx: Any, base: Any, offset: Any, expected: Any, value: Any) -> Any:
    """Set the word at an offset if it is still as expected; whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = builder.cmpxchg(_pointer(builder, args), args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.intp, types.intp, types.intp, types.intp), codegen


@intrinsic
def _now(typingctx: Any, clock: Any) -> Any:
    """Nanoseconds by one of the system's clocks."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        moment = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I32, [_I32, moment.type]), "clock_gettime"
        )
        builder.call(function, [builder.trunc(args[0], _I32), moment])
        seconds, rest = (
            builder.load(builder.gep(moment, [_I64(0), _I64(i)], inbounds=True)) for i in (0, 1)
        )
        return builder.add(builder.mul(seconds, _I64(10**9)), rest)

    return types.intp(types.intp), codegen


@intrinsic
def _call_kernel(
    typingctx: Any, kernel: Any, frame: Any, args: Any, lo: Any, hi: Any, chunk: Any
) -> Any:
    """Call the kernel at an address."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [_I64] * 5)
        builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), codegen


# -- regions ---------------------------------------------------------------------------------------


@inline
def _slot(pool: int, number: int) -> int:
    """The address of a slot: they follow the helpers, of which there is one less than threads."""
    helpers = HELPERS + HELPER_WORDS * (word(pool, BUDGET) - 1)
    return pool + 8 * (helpers + SLOT_WORDS * number)


@inline
def _helper(pool: int, number: int) -> int:
    return pool + 8 * (HELPERS + HELPER_WORDS * number)


@inline
def _take_chunk(slot: int) -> bool:
    """Run one chunk of what is posted in a slot; False if there is none, or another was faster."""
    ticket = _read(slot, 0)
    left = ticket & _CHUNKS
    if left == 0:
        return False
    kernel, frame, args = _read(slot, REGION), _read(slot, REGION + 1), _read(slot, REGION + 2)
    count, chunks = _read(slot, REGION + 3), _read(slot, REGION + 4)
    if not _swap(slot, 0, ticket, ticket - 1):
        return False
    c = chunks - left
    _call_kernel(kernel, frame, args, c * count // chunks, (c + 1) * count // chunks, c)
    _add(slot, DONE, 1)
    return True


@inline
def _part(helper: int) -> None:
    """Have a sleeping helper wake on another processor than this one, if there is one to be used.

    Left to itself, Linux on a virtual machine takes an idle processor for one that the host has
    taken away, and wakes the helper where its caller works: until the load is balanced, tens of
    milliseconds later, they take turns.
    """
    here = _processor()
    if here < 0 or word(helper, THREAD) == 0 or word(helper, AWAY_FROM) == here + 1:
        return
    usable = helper + 8 * PROCESSORS
    if _get_affinity(0, 8 * PROCESSORS_WORDS, usable) != 0:
        return
    _put(usable, here // 64, word(usable, here // 64) & ~(1 << here % 64))
    others = 0
    for k in range(PROCESSORS_WORDS):
        others |= word(usable, k)
    if others:
        _set_affinity(word(helper, THREAD), 8 * PROCESSORS_WORDS, usable)
        _put(helper, AWAY_FROM, here + 1)


@inline
def _wake(pool: int, wanted: int) -> None:
    """Wake as many sleeping helpers as are wanted and allowed."""
    allowed = word(pool, BUDGET) - _read(pool, ACTIVE)
    for i in range(min(wanted, allowed)):
        helper = _helper(pool, i)
        if _read(helper, 0) == 1:
            _mutex_lock(helper + 8 * MUTEX)
            if _LINUX:
                _part(helper)
            _write(helper, 0, 0)
            _mutex_unlock(helper + 8 * MUTEX)
            _condition_signal(helper + 8 * CONDITION)


@inline
def _run_shared(
    pool: int, slot: int, kernel: int, frame: int, args: int, count: int, chunks: int
) -> None:
    """Run all chunks of a step together with whoever helps."""
    _write(slot, DONE, 0)
    _write(slot, REGION, kernel)
    _write(slot, REGION + 1, frame)
    _write(slot, REGION + 2, args)
    _write(slot, REGION + 3, count)
    _write(slot, REGION + 4, chunks)
    generation = (_read(slot, 0) & ~_CHUNKS) + _CHUNKS + 1
    _write(slot, 0, generation | chunks)
    _wake(pool, chunks - 1)
    while _read(slot, 0) & _CHUNKS:
        _take_chunk(slot)
    if _read(slot, DONE) < chunks:
        since = _now(word(pool, CLOCK))
        while _read(slot, DONE) < chunks:
            if _now(word(pool, CLOCK)) - since > word(pool, SPIN) // 8:
                _yield_processor()  # to a helper that was interrupted, perhaps


@inline
def _run_alone(kernel: int, frame: int, args: int, count: int, chunks: int) -> None:
    for c in range(chunks):
        _call_kernel(kernel, frame, args, c * count // chunks, (c + 1) * count // chunks, c)


@inline
def _claim_slot(pool: int) -> int:
    """A slot of one's own, or 0."""
    for number in range(word(pool, BUDGET)):
        slot = _slot(pool, number)
        if _read(slot, OWNER) == 0 and _swap(slot, OWNER, 0, 1):
            return slot
    return 0


# -- entry points ----------------------------------------------------------------------------------


@inline
def _run_steps(
    steps: int, pool: int, slot: int, frame: int, first: int, last: int, deadline: int
) -> int:
    """Run steps; the number of the step before which the deadline passed, else `last`."""
    for step in range(first, last):
        if deadline != 0 and _now(word(pool, CLOCK)) > deadline:
            return step
        base = steps + 8 * STEP_WORDS * step
        kernel, args, count, chunks = word(base, 0), word(base, 1), word(base, 2), word(base, 3)
        if chunks == 1 or slot == 0 or _read(pool, ACTIVE) >= word(pool, BUDGET):
            _run_alone(kernel, frame, args, count, chunks)
        else:
            _run_shared(pool, slot, kernel, frame, args, count, chunks)
    return last


@inline
def _bind(program: int, frame: int, arrays: int, count: int) -> None:
    """Write the frame: the arena, constants, then the data of NumPy arrays, given as objects."""
    consts = word(program, CONSTS)
    _put(frame, 0, frame + word(program, FRAME_BYTES))
    for k in range(consts):
        _put(frame, 1 + k, word(program, HEADER_WORDS + k))
    for k in range(count):
        _put(frame, 1 + consts + k, word(word(arrays, k), word(program, DATA)))


def drive(module: int, values: int, count: int) -> int:
    """A built-in function: ``drive(program, pool, frame, first, last, deadline, *arrays)``.

    Args:
        module: Unused; part of the calling convention (``METH_FASTCALL``).
        values: Address of the argument objects: the program's table, the pool's, the memory for the
            frame and the arena, the first step and the one after the last, a moment in nanoseconds
            (0: none); with the first step also the arrays, in the order of the frame.
        count: How many there are.

    Returns:
        A Python int: the step before which the deadline passed, else ``last``.
    """
    program, pool = _to_word(word(values, 0)), _to_word(word(values, 1))
    frame, first = _to_word(word(values, 2)), _to_word(word(values, 3))
    last, deadline = _to_word(word(values, 4)), _to_word(word(values, 5))
    if count > 6:
        _bind(program, frame, values + 48, count - 6)
    steps = program + 8 * (HEADER_WORDS + word(program, CONSTS))
    if word(program, HOLDS_GIL):
        return _from_word(_run_steps(steps, pool, 0, frame, first, last, deadline))
    state = _release_gil()
    slot = 0
    active = _add(pool, ACTIVE, 1)
    if word(program, MOST_CHUNKS) > 1 and active < word(pool, BUDGET):
        slot = _claim_slot(pool)
        _wake(pool, word(program, MOST_CHUNKS) - 1)
    reached = _run_steps(steps, pool, slot, frame, first, last, deadline)
    if slot:
        _write(slot, OWNER, 0)
    _add(pool, ACTIVE, -1)
    _acquire_gil(state)
    return _from_word(reached)


@inline
def _may_help(pool: int, number: int) -> bool:
    return _read(pool, ACTIVE) + number < word(pool, BUDGET)


@inline
def _sleep(pool: int, number: int) -> None:
    """Sleep until woken, unless there is work: whoever posts looks for sleepers afterwards."""
    helper = _helper(pool, number)
    _mutex_lock(helper + 8 * MUTEX)
    _write(helper, 0, 1)
    for slot in range(word(pool, BUDGET)):
        if _may_help(pool, number) and _read(_slot(pool, slot), 0) & _CHUNKS:
            _write(helper, 0, 0)
    while _read(helper, 0) == 1:
        _condition_wait(helper + 8 * CONDITION, helper + 8 * MUTEX)
    _mutex_unlock(helper + 8 * MUTEX)


def help_out(pool: int, number: int) -> None:
    """The life of a helper thread: it never returns."""
    since = _now(word(pool, CLOCK))
    while True:
        worked = False
        for slot in range(word(pool, BUDGET)):
            while _may_help(pool, number) and _take_chunk(_slot(pool, slot)):
                worked = True
        now = _now(word(pool, CLOCK))
        if worked:
            since = now
        elif now - since > word(pool, SPIN):
            _sleep(pool, number)
            since = _now(word(pool, CLOCK))
