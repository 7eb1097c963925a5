"""JSON of the contract, and the body of an error."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire.wire import json as wire_json
from gradwire.wire.errors import STATUS, WireError, problem, read_problem
from gradwire.wire.tensors import encode_tensor

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(documents)
def test_a_document_survives(document: object) -> None:
    assert wire_json.loads(wire_json.dumps(document)) == document


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_a_wire_error(body: bytes) -> None:
    with contextlib.suppress(WireError):
        document = wire_json.loads(body)
        if document != math.inf:
            assert wire_json.loads(wire_json.dumps(document)) == document


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "line 1 column 2"),
        (b"[1,\n2,]", "line 2"),
        (b"NaN", "bare token NaN"),
        (b'{"a": [-Infinity]}', "bare token -Infinity"),
        (b"[Infinity]", "bare token Infinity"),
        (b'{"a": 1, "b": 2, "a": 1}', "'a' twice"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        ('"x"'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"1" * 5000, "too many digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
    ],
)
def test_what_json_refuses(body: bytes, words: str) -> None:
    with pytest.raises(WireError) as caught:
        wire_json.loads(body)
    assert caught.value.code == "malformed_body"
    assert words in caught.value.reason


texts = st.text(st.sampled_from('ab":\\ \t\u00e9'), max_size=6).map(json.dumps)
spaces = st.sampled_from(["", " ", "\n", "\t "])
numbers = st.sampled_from(["0", "-1", "1.5", "1e400", str(2**63), str(2**64), str(-(2**63) - 1)])


def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(texts, spaces, spaces, inner).map("{0[0]}{0[1]}:{0[2]}{0[3]}".format)
    lists = st.lists(inner).map(lambda items: f"[{','.join(items)}]")
    return st.lists(member).map(lambda m: f"{{{','.join(m)}}}") | lists


leaves = texts | numbers
long = st.tuples(leaves, leaves, st.integers(60, 70)).map(
    lambda i: f"[{','.join([i[0]] * i[2])},{i[1]}]"
)


@settings(deadline=None)
@given(st.recursive(leaves | long, objects, max_leaves=12))
def test_what_is_read_fast_is_what_is_read_strictly(text: str) -> None:
    def outcome(read: Callable[[bytes], object]) -> object:
        try:
            return repr(read(text.encode()))
        except WireError as error:
            return error.reason

    assert outcome(wire_json.loads) == outcome(wire_json._strictly)


@pytest.mark.parametrize("body", [b'{"a": 1, "a" : 2}', b'{"a"\n:1,"b:":{"a":0},"a":2}'])
def test_no_space_hides_a_key_that_came_twice(body: bytes) -> None:
    with pytest.raises(WireError, match="twice"):
        wire_json.loads(body)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_arrays_are_written_as_their_documents(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]], dtype)
    assert wire_json.loads(wire_json.dumps({"x": array})) == {"x": encode_tensor(array)}
    huge = wire_json.dumps({"x": array, "n": 2**70})  # which orjson does not write
    assert wire_json.loads(huge) == {"x": encode_tensor(array), "n": 2**70}


def test_integers_are_exact_and_pairs_of_surrogates_whole() -> None:
    assert wire_json.loads(b"[9007199254740993, -170141183460469231731687303715884105728]") == [
        2**53 + 1,
        -(2**127),
    ]
    assert wire_json.loads(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_a_number_beyond_float64_is_left_to_its_reader() -> None:
    assert wire_json.loads(b"1e400") == math.inf


def test_no_bare_nan_is_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        wire_json.dumps([math.nan])


def test_a_problem_says_what_the_contract_says() -> None:
    body = problem("shape_mismatch", 422, "no fit.", {"op": "add", "expected": [2]})
    assert body == {
        "type": "/errors/shape-mismatch",
        "title": "Shape mismatch",
        "status": 422,
        "detail": "no fit.",
        "code": "shape_mismatch",
        "op": "add",
        "expected": [2],
    }
    read = read_problem(body, 422)
    assert (read.code, read.detail) == ("shape_mismatch", "no fit.")
    assert read.facts == {"op": "add", "expected": [2]}


def test_a_fact_cannot_hide_a_member() -> None:
    with pytest.raises(ValueError, match="status"):
        problem("shape_mismatch", 422, "", {"status": 1})


@pytest.mark.parametrize("document", [None, [], "gateway timeout", 3, {"error": "x"}, {"code": 5}])
def test_an_answer_that_is_no_problem_keeps_its_status(document: object) -> None:
    read = read_problem(document, 502)
    assert (read.code, read.status) == ("http_502", 502)


def test_every_status_is_an_error() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())
