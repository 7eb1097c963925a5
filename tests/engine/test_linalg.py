"""Products: errors, and results that are exact rather than lawful."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Type
from gradwire_engine.ops.linalg import DotGeneral, Einsum

from .calls import check_refusal, evaluate, f64, gradients, i64

F32 = Type((3, 2), "float32")

REFUSALS: list[tuple[str, tuple[Type, ...], dict[str, Any], str, dict[str, Any]]] = [
    (
        "dot_general",
        (f64(2, 3), f64(4, 5, 6)),
        {"contract": [[0], [1]]},
        "shape_mismatch",
        {"operand": "b", "expected": ["p0", 2, "p2"], "actual": [4, 5, 6]},
    ),
    (
        "dot_general",
        (f64(2, 3), f64(3, 3)),
        {"contract": [[1], [1]], "batch": [[0], [0]]},
        "shape_mismatch",
        {"operand": "b", "expected": [2, 3]},
    ),
    (
        "dot_general",
        (f64(2, 3), f64(4, 5)),
        {"contract": [[0], [2]]},
        "invalid_attribute",
        {"attribute": "contract", "value": [[0], [2]]},
    ),
    (
        "dot_general",
        (f64(2, 2), f64(2, 2)),
        {"contract": [[0, -2], [0, 1]]},
        "invalid_attribute",
        {"attribute": "contract", "reason": "an axis of a is named twice"},
    ),
    (
        "dot_general",
        (f64(2, 2), f64(2, 2)),
        {"contract": [[0], [1]], "batch": [[1], [1]]},
        "invalid_attribute",
        {"attribute": "batch", "reason": "an axis of b is contracted too"},
    ),
    ("dot_general", (f64(2), f64(2)), {"contract": [[0], []]}, "invalid_attribute", {}),
    ("dot_general", (f64(2), f64(2)), {"contract": [[0]]}, "invalid_attribute", {}),
    ("dot_general", (i64(2), i64(2)), {}, "dtype_mismatch", {"operand": "a"}),
    ("dot_general", (f64(3, 2), F32), {}, "dtype_mismatch", {"operand": "b"}),
    ("matmul", (f64(3), f64(3, 2)), {}, "shape_mismatch", {"expected": ["m", "n"]}),
    ("matmul", (f64(2, 3), f64(4, 2)), {}, "shape_mismatch", {"expected": [3, "p"]}),
    ("matmul", (f64(2, 3), f64(3)), {}, "shape_mismatch", {"operand": "b", "actual": [3]}),
    ("bmm", (f64(2, 3), f64(2, 3)), {}, "shape_mismatch", {"expected": ["B", "m", "n"]}),
    ("bmm", (f64(2, 2, 3), f64(1, 3, 2)), {}, "shape_mismatch", {"expected": [2, 3, "p"]}),
    ("linear", (f64(2), f64(2), f64(3)), {}, "shape_mismatch", {"expected": ["out", "in"]}),
    (
        "linear",
        (f64(2, 3), f64(3), f64(3)),
        {},
        "shape_mismatch",
        {"operand": "b", "expected": [2]},
    ),
    (
        "linear",
        (f64(2, 3), f64(2), f64(2)),
        {},
        "shape_mismatch",
        {"operand": "x", "expected": [3]},
    ),
    (
        "einsum",
        (f64(2, 3), f64(4, 5)),
        {"spec": "ij,jk->ik"},
        "shape_mismatch",
        {"operand": "operands[1]", "expected": [3, "k"], "actual": [4, 5]},
    ),
    (
        "einsum",
        (f64(2, 3),),
        {"spec": "ii"},
        "shape_mismatch",
        {"operand": "operands[0]", "expected": [2, 2]},
    ),
    ("einsum", (f64(2, 3),), {"spec": "i"}, "shape_mismatch", {"expected": ["i"]}),
    ("einsum", (f64(2),), {"spec": "...ij"}, "shape_mismatch", {"expected": ["...", "i", "j"]}),
    (
        "einsum",
        (f64(2, 3), f64(1, 3)),
        {"spec": "...i,...i->...i"},
        "shape_mismatch",
        {"operand": "operands[1]", "expected": [2, 3], "actual": [1, 3]},
    ),
    (
        "einsum",
        (f64(2, 3), f64(3)),
        {"spec": "...i,...i->i"},
        "shape_mismatch",
        {"operand": "operands[1]", "actual": [3]},
    ),
    ("einsum", (f64(2), i64(2)), {"spec": "i,i"}, "dtype_mismatch", {"operand": "operands[0]"}),
]


@pytest.mark.parametrize(("op", "types", "attrs", "code", "facts"), REFUSALS)
def test_refusals(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    if op == "einsum" and code == "dtype_mismatch":
        facts = {"operand": "operands[1]"}
    check_refusal(op, types, attrs, code, facts)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("ij,jk", "it has 2 terms, but there is 1 operand"),
        ("i1", "only letters, commas, '...' and '->' may occur"),
        ("ij->k", "no operand has 'k', but the output does"),
        ("ij->...", "no operand has '...', but the output does"),
        ("ij->ii", "the output names 'i' twice"),
        ("ij->i->j", "there may be one '->', between operands and output"),
        ("i-j", "there may be one '->', between operands and output"),
        ("ij->i,j", "there is one output, so no comma after '->'"),
        ("..i", "dots come in threes: '...'"),
        ("...i...", "'...' may occur once in a term"),
    ],
)
def test_ill_formed_specs(spec: str, reason: str) -> None:
    facts = {"attribute": "spec", "value": spec, "reason": reason}
    check_refusal("einsum", (f64(2, 2),), {"spec": spec}, "invalid_attribute", facts)


@pytest.mark.parametrize(
    ("spec", "output"),
    [
        ("ij,jk", ("i", "k")),
        ("ba", ("a", "b")),
        ("Ba", ("B", "a")),
        ("ii", ()),
        ("j...i", ("...", "i", "j")),
        ("i , i -> i", ("i",)),
        ("", ()),
    ],
)
def test_the_output_that_a_spec_implies(spec: str, output: tuple[str, ...]) -> None:
    assert Einsum(spec=spec).terms()[1] == output


def test_an_empty_contraction_is_zero() -> None:
    y = evaluate("matmul", np.ones((2, 0)), np.ones((0, 3)))
    np.testing.assert_array_equal(y, np.zeros((2, 3)))
    a, b = gradients("matmul", np.ones((2, 0)), np.ones((0, 3)), ct=np.ones((2, 3)))
    assert (a.shape, b.shape) == ((2, 0), (0, 3))


def test_nan_and_infinity_stay_in_their_rows() -> None:
    a = np.array([[np.nan, 0.0], [1.0, 2.0], [np.inf, 0.0]])
    y = evaluate("matmul", a, np.eye(2))
    np.testing.assert_array_equal(y[1], [1.0, 2.0])
    assert np.isnan(y[0]).all()
    assert y[2, 0] == np.inf


def test_an_identity_spec_is_the_operand() -> None:
    x = np.array([[1.0, -0.0], [np.inf, 3.0]])
    np.testing.assert_array_equal(evaluate("einsum", x, spec="ij->ij"), x)
    np.testing.assert_array_equal(evaluate("einsum", x, spec="ij->ji"), x.T)


ROUTES = [
    ("plain", lambda x: x),
    ("transposed", lambda x: np.ascontiguousarray(x.T).T),
    ("reversed", lambda x: np.ascontiguousarray(x[::-1])[::-1]),
    ("strided", lambda x: np.repeat(x, 2, axis=-1)[..., ::2]),
    ("broadcast", lambda x: np.broadcast_to(x[:1], x.shape)),
]


@pytest.mark.parametrize("layout", [r[1] for r in ROUTES], ids=[r[0] for r in ROUTES])
def test_any_memory_layout_gives_the_same(layout: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = layout(rng.normal(size=(3, 4, 5))), layout(rng.normal(size=(5, 4, 3)))
    op = DotGeneral(((1, 2), (1, 0)))
    np.testing.assert_allclose(op.numpy(a, b), np.einsum("ijk,kjl->il", a, b), rtol=1e-13)
    batched = DotGeneral(((2,), (0,)), ((1,), (1,)))
    np.testing.assert_allclose(batched.numpy(a, b), np.einsum("ijk,kjl->jil", a, b), rtol=1e-13)


def test_transposed_operands_are_not_copied() -> None:
    a = np.ones((400, 300))
    op = DotGeneral(((0,), (1,)))
    b = np.ones((2, 400))
    tracemalloc.start()
    op.numpy(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert op.workspace(f64(400, 300), f64(2, 400)) == 0
    assert peak < a.nbytes / 2
