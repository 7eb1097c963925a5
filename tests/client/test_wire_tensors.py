"""The JSON form of a tensor: round trips, and every way in which a document may be wrong."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire.wire import json as wire_json
from gradwire.wire.errors import WireError
from gradwire.wire.tensors import DTYPES, Array, decode_tensor, encode_tensor


def arrays(name: str) -> st.SearchStrategy[Array]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return shapes.flatmap(lambda shape: hnp.arrays(DTYPES[name], shape))


ANY_ARRAY = st.sampled_from(sorted(DTYPES)).flatmap(arrays)


def same(left: Array, right: Array) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    np.testing.assert_array_equal(left, right)


def refused(doc: object, *, dtype: str | None = None, shape: Any = None) -> WireError:
    with pytest.raises(WireError) as caught:
        decode_tensor(doc, "inputs/x", dtype=dtype, shape=shape)
    assert caught.value.path.startswith("inputs/x")
    return caught.value


@given(ANY_ARRAY, st.sampled_from(["data", "base64"]))
def test_a_tensor_survives_the_way_through_json(array: Array, form: Any) -> None:
    doc = wire_json.loads(wire_json.dumps(encode_tensor(array, form)))
    back = decode_tensor(doc, "x", dtype=None, shape=None)
    same(back, array)
    assert back.flags.c_contiguous
    assert back.flags.aligned


@given(ANY_ARRAY)
def test_a_nested_list_means_what_numpy_means(array: Array) -> None:
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=-1.0)
    doc = json.loads(json.dumps(array.tolist()))
    same(decode_tensor(doc, "x", dtype=array.dtype.name, shape=array.shape), array)
    with_shape = {"shape": list(array.shape), "dtype": array.dtype.name, "data": doc}
    same(decode_tensor(with_shape, "x", dtype=None, shape=None), array)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=20,
)
tensor_like = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*DTYPES, "int32"]) | json_values,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | json_values,
        "data": json_values,
        "base64": st.text("AQ=/+", max_size=12) | json_values,
    },
)


@settings(max_examples=300)
@given(json_values | tensor_like, st.sampled_from([None, *DTYPES]))
def test_any_document_is_a_tensor_or_a_wire_error(doc: object, dtype: str | None) -> None:
    try:
        outcome = decode_tensor(doc, "x", dtype=dtype, shape=(2, None)).dtype.name
    except WireError as error:
        outcome = error.code
    assert outcome in {"malformed_tensor", "unknown_dtype", *DTYPES}


@pytest.mark.parametrize(
    ("doc", "dtype", "shape", "expected"),
    [
        (1.5, "float32", (), np.float32(1.5)),
        (3, "float64", (), np.float64(3)),
        (3, "int64", (), np.int64(3)),
        (True, "bool", (), np.bool_(True)),
        ("NaN", "float32", (), np.float32("nan")),
        ([1, 2], None, None, np.array([1, 2], np.float32)),
        ([True, False], None, None, np.array([True, False])),
        ({"data": [1, 2, 3, 4]}, "float64", (2, 2), np.array([[1.0, 2.0], [3.0, 4.0]])),
        ({"data": [[1, 2], [3, 4]]}, "float64", (2, 2), np.array([[1.0, 2.0], [3.0, 4.0]])),
        ({"data": [1, 2, 3, 4]}, "float64", (None, 2), np.array([[1.0, 2.0], [3.0, 4.0]])),
        ({"shape": [0, 3], "data": []}, "float32", None, np.zeros((0, 3), np.float32)),
        ({"shape": [2, 0, 3], "data": [[], []]}, "int64", None, np.zeros((2, 0, 3), np.int64)),
        ([], "float32", (0, 3), np.zeros((0, 3), np.float32)),
        ([], "float32", (None, 3), np.zeros((0, 3), np.float32)),
        ({"shape": [], "data": [7]}, "float32", None, np.float32(7)),
        ({"data": [7]}, "float32", (), np.float32(7)),
        ({"dtype": None, "shape": None, "data": [7]}, "float32", (1,), np.ones(1, "f4") * 7),
        ([2.0], "int64", (1,), np.array([2], np.int64)),
        (["9223372036854775807", "-5"], "int64", (2,), np.array([2**63 - 1, -5], np.int64)),
        ([-(2**63)], "int64", (1,), np.array([-(2**63)], np.int64)),
        (["Infinity", "-Infinity", 1], "float32", (3,), np.array([np.inf, -np.inf, 1], "f4")),
        ([10**30], "float64", (1,), np.array([1e30])),
    ],
)
def test_what_a_document_leaves_out_comes_from_the_graph(
    doc: object, dtype: str | None, shape: Any, expected: Array
) -> None:
    same(decode_tensor(doc, "x", dtype=dtype, shape=shape), np.asarray(expected))


def test_base64_fills_the_declared_shape() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    doc = {"base64": base64.b64encode(array.tobytes()).decode()}
    same(decode_tensor(doc, "x", dtype="float32", shape=(2, 3)), array)
    same(decode_tensor(doc, "x", dtype="float32", shape=(None, 3)), array)


@pytest.mark.parametrize(
    ("doc", "shape", "actual"),
    [
        ({"data": [1, 2, 3]}, (2, 2), (3,)),
        ([1, 2, 3, 4], (2, 2), (4,)),
        ([[1, 2]], (2,), (1, 2)),
        ({"shape": [3], "data": [1, 2, 3]}, (2,), (3,)),
        ({"data": [1, 2, 3]}, (None, 2), (3,)),
        ({"base64": "AAAAAA=="}, (2,), (1,)),
        ({"data": []}, (None, 0), (0,)),
    ],
)
def test_a_sound_tensor_of_another_shape_is_returned_as_it_is(
    doc: object, shape: Any, actual: tuple[int, ...]
) -> None:
    assert decode_tensor(doc, "x", dtype="float32", shape=shape).shape == actual


def test_a_sound_tensor_of_another_dtype_is_returned_as_it_is() -> None:
    array = decode_tensor({"dtype": "int64", "data": [1]}, "x", dtype="float32", shape=(1,))
    assert array.dtype == np.int64


@pytest.mark.parametrize(
    ("doc", "dtype", "words"),
    [
        (None, "float32", "null"),
        ([[1, 2], [3]], "float32", "element [1] is a list of 1, those before it are a list of 2"),
        ([[1], 2], "float32", "element [1] is a number"),
        ([1, [2]], "float32", "ragged"),
        ([1, True], "float32", "element [1] is true, which float32 cannot hold"),
        ([[1, 2], [False, 3]], "float64", "element [1, 0] is false"),
        ([1, None], "float32", "element [1] is null"),
        ([{}], "float32", "an object"),
        ([1.5], "int64", "1.5, which int64 cannot hold"),
        ([1e30], "int64", "1e+30"),
        ([2**63], "int64", "9223372036854775808"),
        (["9223372036854775808"], "int64", "9223372036854775808"),
        (["1.0"], "int64", "'1.0'"),
        (["٣"], "int64", "int64 cannot hold"),
        ([True], "int64", "true"),
        ([0, 1], "bool", "element [0] is 0, which bool cannot hold"),
        (["true"], "bool", "'true'"),
        ([1, 1e39], "float32", "element [1] is 1e+39, which float32 cannot hold"),
        ([-3.5e38], "float32", "float32 cannot hold"),
        ([0, math.inf], "float64", "element [1] is a number beyond float64"),
        ([math.inf, "NaN"], "float32", "element [0] is a number beyond float64"),
        ([10**400], "float64", "hundreds of digits"),
        ([10**400, "NaN"], "float32", "hundreds of digits"),
        (["nan"], "float32", "'nan'"),
        (["1.0"], "float32", "'1.0'"),
        ({}, "float32", "neither data nor base64"),
        ({"data": 1, "base64": "AAAA"}, "float32", "both data and base64"),
        ({"data": 1, "extra": 1}, "float32", "unknown field 'extra'"),
        ({"tensor": "w"}, "float32", "unknown field 'tensor'"),
        ({"shape": [2, 2], "data": [1, 2, 3]}, "float32", "[2, 2], but its data has shape [3]"),
        ({"shape": [2, 3], "data": [[1, 2], [3, 4], [5, 6]]}, "float32", "has shape [3, 2]"),
        ({"shape": [1], "data": 1}, "float32", "its data has shape []"),
        ({"shape": [-1], "data": [1]}, "float32", "-1 is no size"),
        ({"shape": [1.0], "data": [1]}, "float32", "1.0 is no size"),
        ({"shape": [True], "data": [1]}, "float32", "true is no size"),
        ({"shape": "2", "data": [1]}, "float32", "no list of sizes"),
        ({"shape": [1] * 33, "data": [1]}, "float32", "more than 32 axes"),
        ({"shape": [2**40, 2**40], "data": []}, "float32", "its data has shape [0]"),
        ({"shape": [2**62, 2**62, 0], "data": []}, "float32", "too large"),
        ({"shape": [2**70], "data": []}, "float32", "no size"),
        ({"shape": [1], "base64": "AAAAAAAA"}, "float32", "no whole number of float32"),
        ({"shape": [3], "base64": "AAAAAA=="}, "float32", "the bytes hold 1"),
        ({"shape": [1], "base64": "AAAA=AA="}, "float32", "not base64"),
        ({"shape": [1], "base64": "AAA\nAAA=="}, "float32", "not base64"),
        ({"shape": [1], "base64": "____AA=="}, "float32", "not base64"),
        ({"shape": [1], "base64": "é"}, "float32", "not base64"),
        ({"shape": [1], "base64": 5}, "float32", "no string"),
        ({"shape": [1], "base64": "Ag=="}, "bool", "0 or 1"),
        ({"base64": "AAAAAA=="}, "float32", "needs a shape"),
        ({"shape": [1], "base64": "AAAAAA=="}, None, "needs a dtype"),
        ({"dtype": 5, "data": 1}, None, "no string"),
    ],
)
def test_a_document_that_contradicts_itself_is_malformed(
    doc: object, dtype: str | None, words: str
) -> None:
    error = refused(doc, dtype=dtype)
    assert error.code == "malformed_tensor"
    assert words in error.reason


def test_an_unknown_dtype_is_named() -> None:
    error = refused({"dtype": "float16", "data": 1})
    assert error.code == "unknown_dtype"
    assert error.facts() == {
        "path": "inputs/x/dtype",
        "reason": "it is one of float32, float64, int64, bool",
        "value": "float16",
    }


def test_nesting_is_bounded_without_recursion() -> None:
    doc: object = 1
    for _ in range(5000):
        doc = [doc]
    assert "32 axes" in refused(doc, dtype="float32").reason


@given(st.floats(width=64, allow_nan=False, allow_infinity=False))
def test_float32_takes_what_rounds_into_its_range(number: float) -> None:
    with np.errstate(over="ignore"):
        rounded = np.float32(number)
    if np.isinf(rounded):
        refused([number], dtype="float32")
    else:
        assert decode_tensor([number], "x", dtype="float32", shape=None)[0] == rounded


def test_the_edge_of_float32() -> None:
    edge = float(np.finfo(np.float32).max)
    inside, outside = math.nextafter(edge + 2.0**103, 0.0), edge + 2.0**103
    assert decode_tensor([inside, "NaN"], "x", dtype="float32", shape=None)[0] == np.float32(edge)
    assert "element [1]" in refused([inside, outside], dtype="float32").reason


def test_large_integers_travel_as_decimal_strings() -> None:
    array = np.array([2**53 - 1, 2**53, -(2**53), -(2**63), 2**63 - 1, 0])
    assert encode_tensor(array)["data"] == [
        2**53 - 1,
        str(2**53),
        str(-(2**53)),
        str(-(2**63)),
        str(2**63 - 1),
        0,
    ]


def test_non_finite_numbers_travel_as_words() -> None:
    doc = encode_tensor(np.array([[np.nan, np.inf], [-np.inf, 1.0]], np.float32))
    assert doc == {
        "dtype": "float32",
        "shape": [2, 2],
        "data": ["NaN", "Infinity", "-Infinity", 1.0],
    }


def test_encoding_takes_any_layout() -> None:
    array = np.arange(6, dtype=">f8").reshape(2, 3).T
    for doc in (encode_tensor(array, "data"), encode_tensor(array, "base64")):
        back = decode_tensor(doc, "x", dtype=None, shape=None)
        np.testing.assert_array_equal(back, array)


def test_encoding_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match="float16"):
        encode_tensor(np.zeros(1, np.float16))


def test_an_error_survives_pickling() -> None:
    import pickle

    error = WireError("unknown_dtype", "x", "it is none", None)
    back = pickle.loads(pickle.dumps(error))
    assert (back.code, back.facts(), str(back)) == (error.code, error.facts(), str(error))
    plain = WireError("malformed_body", "", "it is empty")
    assert pickle.loads(pickle.dumps(plain)).facts() == {"path": "", "reason": "it is empty"}
