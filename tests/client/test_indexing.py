"""The plan of an index expression, carried out with NumPy, is NumPy's own indexing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire._indexing import plan_index


def carry_out(array: Any, key: Any) -> Any:
    plan = plan_index(array.shape, key)
    if plan.cut is not None:
        cuts = [slice(*cut) for cut in zip(*plan.cut, strict=True)]
        starts, limits, strides = plan.cut
        assert all(0 <= a <= b <= n for a, b, n in zip(starts, limits, array.shape, strict=True))
        assert all(stride >= 1 for stride in strides)
        array = array[tuple(slice(c.start, c.stop, c.step) for c in cuts)]
    assert array.shape == plan.sliced
    if plan.flip is not None:
        array = np.flip(array, tuple(plan.flip))
    if plan.shape is not None:
        array = array.reshape(plan.shape)
    return array


@settings(max_examples=300)
@given(st.data(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
def test_basic_indexing_is_numpys(data: st.DataObject, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape)
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    try:
        expected = array[key]
    except IndexError:
        with pytest.raises(IndexError):
            plan_index(shape, key)
        return
    got = carry_out(array, key)
    assert got.shape == np.shape(expected)
    np.testing.assert_array_equal(got, expected)


def test_what_changes_nothing_needs_no_op() -> None:
    plan = plan_index((2, 3), (slice(None), ...))
    assert (plan.cut, plan.flip, plan.shape) == (None, None, None)


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        ((0, 0, 0), IndexError, "3 indices for a value of rank 2"),
        ((..., ...), IndexError, "one ellipsis"),
        (2, IndexError, "index 2 is outside axis 0 of size 2"),
        ((0, -4), IndexError, "index -4 is outside axis 1 of size 3"),
        (True, TypeError, "not bool"),
        (1.0, TypeError, "not float"),
        ("w", TypeError, "not str"),
        ([0, 1], TypeError, r"see take\(\)"),
        (np.array([0, 1]), TypeError, "not ndarray"),
        (slice(None, None, 0), ValueError, "zero"),
    ],
)
def test_what_is_no_index(key: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plan_index((2, 3), key)
