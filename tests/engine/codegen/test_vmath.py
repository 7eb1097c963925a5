"""The functions that kernels call: accuracy by arbitrary precision, special values, vectors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gradwire_engine.codegen import compile, prelude
from gradwire_engine.codegen import vmath as vm
from gradwire_engine.codegen.program import Kernel, chunks_for
from gradwire_engine.ir import Type

from .emitted import Emitted

mp = pytest.importorskip("mpmath").mp
Array = np.ndarray[Any, Any]

DTYPES = {"f32": "float32", "f64": "float64", "i64": "int64"}
COUNT = 400 if prelude.JIT else 60
NAN, INF = math.nan, math.inf
LIMIT = 4.0
"""Units in the last place that a result may be off by."""


def source(name: str, arity: int, result: str) -> str:
    """A kernel that applies a function to every element."""
    kind = name[-3:]
    lines = [f"a{k} = operand(frame, args, {k})" for k in range(arity + 1)]
    values = ", ".join(f"load_{kind}(a{k}, i, {k})" for k in range(arity))
    body = "".join(f"    {line}\n" for line in lines)
    return (
        "from gradwire_engine.codegen import vmath as vm\n"
        "from gradwire_engine.codegen.prelude import *\n\n\n"
        f"def kernel(frame, args, lo, hi, chunk):\n{body}"
        "    for i in range(lo, hi):\n"
        f"        store_{result}(a{arity}, i, vm.{name}({values}), {arity})\n"
    )


def apply(name: str, *operands: Any, result: str | None = None) -> Array:
    """What a kernel makes of arrays, in the dtype that the function's name ends in."""
    kind = name[-3:]
    result = result or kind
    arrays = [np.ascontiguousarray(x, DTYPES[kind]) for x in operands]
    lab = Emitted()
    target = lab.output(Type(arrays[0].shape, DTYPES[result]))
    lab.emit.call(
        Kernel(source(name, len(arrays), result)),
        [*map(lab.input, arrays), target],
        [],
        count=arrays[0].size,
        chunks=chunks_for(arrays[0].size, 1e5, 2),
        writes=[len(arrays)],
    )
    lab.run()
    return lab.array(target)


# -- accuracy --------------------------------------------------------------------------------------


def _turning(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def reference(x: Any) -> Any:
        with mp.workprec(150 + max(0, int(mp.frexp(x)[1]))):
            return function(x)

    return reference


def _erfc(x: Any) -> Any:
    return mp.erfc(x) if abs(x) < 40 else mp.mpf(2 if x < 0 else 0)


REFERENCES: dict[str, Callable[..., Any]] = {
    "exp": mp.exp,
    "expm1": mp.expm1,
    "log": mp.log,
    "log1p": mp.log1p,
    "sqrt": mp.sqrt,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "sin": _turning(mp.sin),
    "cos": _turning(mp.cos),
    "tan": _turning(mp.tan),
    "tanh": mp.tanh,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "erf": lambda x: 1 - _erfc(x) if abs(x) > 1 else mp.erf(x),
    "erfc": _erfc,
    "pow": lambda x, y: mp.exp(y * mp.log(x)),
    "atan2": lambda y, x: mp.atan2(y, x),
}
LEAST = {"log": 0.0, "log1p": -1.0, "sqrt": 0.0, "rsqrt": 0.0, "pow": 0.0}
"""Below, or there, there is no finite result."""


def numbers(dtype: str, count: int, seed: int) -> Array:
    """Finite numbers of every size and sign, and many where functions change their ways."""
    rng = np.random.default_rng(seed)
    format = np.finfo(dtype)
    whole = np.dtype(f"int{format.bits}")
    sizes = np.ldexp(1 + rng.random(count), rng.integers(format.minexp, format.maxexp, count))
    subnormal = rng.integers(1, 1 << format.nmant, 20).astype(whole).view(dtype)
    edge = math.log(float(format.max))
    places = [*(0.35, 0.5, 0.65, 1, 2 / 3, 4 / 3, 2, 9, 20), edge, -edge, 1.04 * edge, -1.05 * edge]
    near = [(np.array(p, dtype).view(whole) + rng.integers(-9, 9, 8)).view(dtype) for p in places]
    parts = [
        sizes * rng.choice([-1, 1], count),
        rng.normal(size=count) * rng.choice([1e-3, 0.1, 1, 10], count),
        1 + rng.normal(size=count // 4) * rng.choice([1e-6, 1e-3, 0.1], count // 4),
        rng.uniform(-1.1 * edge, 1.1 * edge, count // 2),
        np.arange(1, 30) * math.pi / 4,
        *near,
        [format.max, -format.max, format.tiny, format.smallest_subnormal],
    ]
    joined = np.concatenate([np.asarray(p, dtype) for p in (*parts, subnormal, -subnormal)])
    finite: Array = joined[np.isfinite(joined)]
    return finite


def ulps(got: Array, exact: Sequence[Any]) -> Array:
    """How far results are from exact ones, in units of the exact one's last place."""
    format = np.finfo(got.dtype)
    top = mp.ldexp(2 - mp.ldexp(1, -format.nmant - 1), format.maxexp - 1)  # from there on infinite
    found = []
    for value, wanted in zip(got.tolist(), exact, strict=True):
        if abs(wanted) >= top:
            found.append(0.0 if math.isinf(value) and value * wanted > 0 else INF)
            continue
        exponent = max(int(mp.frexp(wanted)[1]) - 1, int(format.minexp))
        distance = abs(mp.mpf(value) - wanted) if math.isfinite(value) else mp.inf
        found.append(float(mp.ldexp(distance, format.nmant - exponent)))
    return np.array(found)


def operands(name: str, kind: str) -> list[Array]:
    x = numbers(DTYPES[kind], COUNT, 1)
    if name == "atan2":
        near = x[: x.size // 2] * np.array(0.99, x.dtype)
        return [x, np.concatenate([near, np.random.default_rng(2).permutation(x)[near.size :]])]
    x = x[x > LEAST.get(name, -INF)]
    if name == "pow":  # exponents with results in range, and others
        rng = np.random.default_rng(2)
        with np.errstate(all="ignore"):
            ranged = rng.uniform(-1, 1, x.size) * math.log(np.finfo(x.dtype).max) * 1.1 / np.log(x)
        y = np.where(rng.random(x.size) < 0.8, ranged, rng.permutation(x)).astype(x.dtype)
        return [x[np.isfinite(y)], y[np.isfinite(y)]]
    return [x]


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", REFERENCES)
def test_results_are_within_four_units_in_the_last_place(name: str, kind: str) -> None:
    arguments = operands(name, kind)
    got = apply(f"{name}_{kind}", *arguments)
    with mp.workprec(180):
        exact = [
            REFERENCES[name](*map(mp.mpf, point))
            for point in zip(*(a.tolist() for a in arguments), strict=True)
        ]
        off = ulps(got, exact)
    worst = int(np.argmax(off))
    assert off[worst] <= LIMIT, (off[worst], [a[worst] for a in arguments], got[worst])


@pytest.mark.parametrize(
    "x",
    [
        6381956970095103 * 2.0**797,  # of all float64s the closest to a multiple of pi/2
        16367173 * 2.0**72,  # of all float32s
        *(k * math.pi / 2 for k in (1, 2, 3, 1001, 10**6, 10**15)),
        2.0**50,
        2.0**77,
        2.0**104,
        2.0**56,
    ],
)
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_multiples_of_a_quarter_turn_do_not_cancel(name: str, x: float) -> None:
    for kind in ("f32", "f64"):
        if kind == "f32" and x > 1e38:
            continue
        steps = np.arange(-3, 4)
        whole = np.dtype(f"int{kind[1:]}")
        points = (np.array(x, DTYPES[kind]).view(whole) + steps.astype(whole)).view(DTYPES[kind])
        got = apply(f"{name}_{kind}", points)
        with mp.workprec(1300):
            off = ulps(got, [getattr(mp, name)(mp.mpf(p)) for p in points.tolist()])
        assert off.max() <= LIMIT


# -- special values --------------------------------------------------------------------------------

SPECIAL: dict[str, list[tuple[float, float]]] = {
    "exp": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (1e4, INF), (-1e4, 0)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1), (-1e4, -1), (1e-40, 1e-40)],
    "log": [(1, 0.0), (0.0, -INF), (-0.0, -INF), (INF, INF), (-1, NAN), (-INF, NAN)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1, -INF), (INF, INF), (-2, NAN), (-INF, NAN)],
    "sqrt": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-1, NAN), (-INF, NAN), (4, 2)],
    "rsqrt": [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-1, NAN), (4, 0.5)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (1e-40, 1e-40)],
    "cos": [(0.0, 1), (-0.0, 1), (INF, NAN), (-INF, NAN), (1e-40, 1)],
    "tan": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (-1e-40, -1e-40)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (30, 1), (-30, -1), (1e-40, 1e-40)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0.0), (100, 1), (-1e4, 0.0)],
    "softplus": [(INF, INF), (-INF, 0.0), (-1e4, 0.0), (1e4, 1e4)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (9, 1), (-9, -1)],
    "erfc": [(0.0, 1), (-0.0, 1), (INF, 0.0), (-INF, 2), (30, 0.0), (-9, 2)],
    "floor": [(-0.0, -0.0), (0.0, 0.0), (INF, INF), (-INF, -INF), (-0.5, -1), (1e30, 1e30)],
    "sign": [(-0.0, 0.0), (0.0, 0.0), (INF, 1), (-INF, -1), (1e-40, 1), (-1e-40, -1)],
    "abs": [(-0.0, 0.0), (0.0, 0.0), (-INF, INF), (-1e-40, 1e-40), (-2, 2)],
}


def assert_same(got: Array, wanted: Array) -> None:
    """Equal, the signs of zeros included."""
    np.testing.assert_array_equal(got, wanted)
    zeros = wanted == 0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(wanted[zeros]))


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values_are_exact(name: str, kind: str) -> None:
    arguments, wanted = (np.array(c, DTYPES[kind]) for c in zip(*SPECIAL[name], strict=True))
    assert_same(apply(f"{name}_{kind}", arguments), wanted)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", SPECIAL)
def test_nan_stays_nan_whatever_its_bits(name: str, kind: str) -> None:
    bits = int(kind[1:])
    top = {32: 0x7F800000, 64: 0x7FF0000000000000}[bits]
    payloads = np.array([1, 0x1234, top >> 12, ((1 << (bits - 1)) - 1) ^ top], f"int{bits}")
    nans = (payloads | top).view(DTYPES[kind])
    got = apply(f"{name}_{kind}", np.concatenate([nans, -nans]))
    assert np.isnan(got).all()


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize(("name", "function"), [("pow", np.power), ("atan2", np.arctan2)])
def test_pairs_of_special_values_follow_numpy(
    name: str, function: Callable[[Array, Array], Array], kind: str
) -> None:
    format = np.finfo(DTYPES[kind])
    huge, small = float(format.max), float(format.smallest_subnormal)
    positive = [0.0, small, 0.5, 1 - float(format.epsneg), 1, 2, 3, 2.5, 1e9, 1e9 + 1, huge, INF]
    values = np.array([*positive, *(-p for p in positive), NAN], DTYPES[kind])
    a, b = (v.reshape(-1) for v in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        wanted = function(a, b)
    got = apply(f"{name}_{kind}", a, b)
    exact = ~np.isfinite(wanted) | (wanted == 0)
    assert_same(got[exact], wanted[exact])
    tolerance = LIMIT * float(format.eps)
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=4 * small)


def test_casts_to_int64_drop_the_fraction_and_mark_what_does_not_fit() -> None:
    least = -(2**63)
    pairs = [(2.9, 2), (-2.9, -2), (-0.0, 0), (2.0**62, 2**62), (-(2.0**63), least)]
    pairs += [(x, least) for x in (2.0**63, 1e30, -1e30, INF, -INF, NAN, -(2.0**63) * 1.001)]
    for kind in ("f32", "f64"):
        got = apply(f"to_i64_{kind}", [x for x, _ in pairs], result="i64")
        assert got.tolist() == [y for _, y in pairs]


# -- machine code ----------------------------------------------------------------------------------


@pytest.mark.skipif(not prelude.JIT, reason="there is machine code only with Numba's JIT")
@pytest.mark.parametrize("name", [n for n in vm.__all__ if not n.startswith("to_i64")])
def test_loops_become_vectors_and_call_nothing(name: str) -> None:
    import numba

    text = source(name, 2 if name[:-4] in ("pow", "atan2") else 1, name[-3:])
    kernel = numba.cfunc(
        compile.SIGNATURE, fastmath=compile.FLAGS, error_model="numpy", forceinline=True
    )(compile.define(text))
    code = kernel.inspect_llvm()
    scalar = "float|i32" if name.endswith("f32") else "double|i64"
    assert re.search(rf"store <\d+ x ({scalar})>", code)
    called = set(re.findall(r"call [^@\n]*@([\w.]+)", code))
    assert not [c for c in called if not c.startswith("llvm.") and "kernel" not in c]
