"""Random numbers are the ones of the specification, bit by bit; counting; constants."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Type, transform
from gradwire_engine.ops.sources import split_mix, uniform
from gradwire_engine.runtime import interpret

from .calls import check_refusal, evaluate, f64, gradients, graph_of, i64

VECTORS = [
    (0, 0, 0xE220A8397B1DCDAF, [1293516399, 2939677055, 1326138252, 994118778]),
    (42, 0, 0xBDD732262FEB6E95, [1695576580, 2583233866, 2257628742, 2319239696]),
    (42, 3, 0xF7E9F3F88CC04AD6, [4183322127, 4270391397, 2716961364, 1373604689]),
    (123456789, 7, 0x86BC8B5491B53605, [2543922609, 2672914665, 585991482, 3495546258]),
    (2**64 - 1, 1, 0xE220A8397B1DCDAF, [1293516399, 2939677055, 1326138252, 994118778]),
]

REFUSALS: list[tuple[str, tuple[Type, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("rand_uniform", (), {"shape": [2]}, "missing_attribute", {"attribute": "seed"}),
    ("rand_uniform", (), {"seed": 1}, "missing_attribute", {"attribute": "shape"}),
    ("rand_uniform", (i64(),), {"shape": [2], "seed": 1}, "invalid_attribute", {"value": 1}),
    ("rand_uniform", (f64(),), {"shape": [2]}, "dtype_mismatch", {"operand": "seed"}),
    ("rand_uniform", (), {"shape": [2], "seed": -1}, "invalid_attribute", {}),
    ("rand_uniform", (), {"shape": [2], "seed": 2**64}, "invalid_attribute", {}),
    ("rand_uniform", (), {"shape": [-2], "seed": 1}, "invalid_attribute", {}),
    ("rand_uniform", (), {"shape": [], "seed": 1, "dtype": "int64"}, "invalid_attribute", {}),
    ("bernoulli_mask", (f64(),), {"shape": [2]}, "missing_attribute", {"attribute": "seed"}),
    ("bernoulli_mask", (f64(1),), {"shape": [2], "seed": 1}, "shape_mismatch", {"expected": []}),
    ("bernoulli_mask", (i64(),), {"shape": [2], "seed": 1}, "dtype_mismatch", {}),
    ("bernoulli_mask", (f64(), f64()), {"shape": [2]}, "dtype_mismatch", {"operand": "seed"}),
    ("iota", (), {"shape": []}, "invalid_attribute", {"attribute": "axis"}),
    ("iota", (), {"shape": [2], "axis": 1}, "invalid_attribute", {"value": 1}),
    ("iota", (), {"shape": [2], "dtype": "bool"}, "invalid_attribute", {"attribute": "dtype"}),
]


@pytest.mark.parametrize(
    ("op", "types", "attrs", "code", "facts"),
    REFUSALS,
    ids=[f"{i}-{r[0]}" for i, r in enumerate(REFUSALS)],
)
def test_refusals(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    check_refusal(op, types, attrs, code, facts)


def _toward_zero(bits: int) -> Fraction:
    """bits / 2^32 with all but the first 24 significant bits dropped."""
    spare = max(bits.bit_length() - 24, 0)
    return Fraction(bits >> spare << spare, 2**32)


@pytest.mark.parametrize(("seed", "stream", "key", "bits"), VECTORS)
def test_the_specifications_vectors(seed: int, stream: int, key: int, bits: list[int]) -> None:
    state = np.array([(seed + stream) % 2**64], dtype=np.uint64)
    assert split_mix(state)[0] == key
    attrs = {"shape": [2, 2], "seed": seed, "stream": stream}
    wide = evaluate("rand_uniform", **attrs, dtype="float64")
    assert [Fraction(u) for u in wide.reshape(-1).tolist()] == [Fraction(b, 2**32) for b in bits]
    narrow = evaluate("rand_uniform", **attrs)
    assert narrow.dtype == np.float32
    assert [Fraction(u) for u in narrow.reshape(-1).tolist()] == [*map(_toward_zero, bits)]


def test_float32_rounds_toward_zero_and_never_reaches_one() -> None:
    bits = [0, 1, 2**24 - 1, 2**24 + 1, 2**31 + 255, 2**32 - 129, 2**32 - 128, 2**32 - 1]
    u = uniform(np.array(bits, np.uint64), "float32")
    assert [Fraction(v) for v in u.tolist()] == [*map(_toward_zero, bits)]
    assert u.max() < 1


def test_a_seed_operand_is_read_as_uint64_and_each_seed_draws_its_own() -> None:
    seeds = np.array([[0, 42], [-1, 123456789]])
    u = evaluate("rand_uniform", seeds, shape=[3], dtype="float64")
    assert u.shape == (2, 2, 3)
    for at, seed in [((0, 0), 0), ((0, 1), 42), ((1, 0), 2**64 - 1), ((1, 1), 123456789)]:
        alone = evaluate("rand_uniform", shape=[3], seed=seed, dtype="float64")
        np.testing.assert_array_equal(u[at], alone)


def test_mapping_the_seed_draws_anew_and_an_unmapped_one_repeats() -> None:
    one = graph_of("bernoulli_mask", np.array(0.5), np.array(7), shape=[50])
    seeds = np.array([7, 8])
    (apart,) = interpret(transform.vmap(one, 2, {"x1": 0}), [np.array(0.5), seeds])
    (same,) = interpret(transform.vmap(one, 2, {"x0": 0}), [np.array([0.5, 0.5]), np.array(7)])
    alone = evaluate("bernoulli_mask", np.array(0.5), shape=[50], seed=7)
    np.testing.assert_array_equal(apart[0], alone)
    np.testing.assert_array_equal(same, [alone, alone])
    assert (apart[1] != alone).any()


def test_the_mask_keeps_what_is_strictly_below() -> None:
    mask = evaluate("bernoulli_mask", np.array(0.5), shape=[4], seed=0)
    np.testing.assert_array_equal(mask, [1, 0, 1, 1])
    first = np.array(1293516399 / 2**32)
    np.testing.assert_array_equal(evaluate("bernoulli_mask", first, shape=[1], seed=0), [0])
    above = np.nextafter(first, 1)
    np.testing.assert_array_equal(evaluate("bernoulli_mask", above, shape=[1], seed=0), [1])
    for p, kept in [(np.nan, 0), (0.0, 0), (-1.0, 0), (1.0, 1), (np.inf, 1)]:
        mask = evaluate("bernoulli_mask", np.array(p), shape=[9], seed=3)
        np.testing.assert_array_equal(mask, np.full(9, kept))


def test_float32_masks_compare_exactly() -> None:
    """keep_prob against the 32-bit number, not against its float32 rounding."""
    draws = [Fraction(v, 2**32) for v in VECTORS[2][3]]
    for u in draws:
        nearest = np.float32(float(u))
        for p in (
            np.nextafter(nearest, np.float32(0)),
            nearest,
            np.nextafter(nearest, np.float32(1)),
        ):
            mask = evaluate("bernoulli_mask", np.asarray(p), shape=[4], seed=42, stream=3)
            assert mask.dtype == np.float32
            assert mask.tolist() == [float(Fraction(float(p)) > v) for v in draws]


def test_the_mask_is_a_stop_gradient() -> None:
    (gradient,) = gradients("bernoulli_mask", np.array(0.5), ct=np.ones(4), shape=[4], seed=0)
    assert gradient == 0


def test_counting_repeats_along_the_other_axes() -> None:
    y = evaluate("iota", shape=[2, 3], axis=-1)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, [[0, 1, 2], [0, 1, 2]])
    assert evaluate("iota", shape=[3], dtype="float32").dtype == np.float32
