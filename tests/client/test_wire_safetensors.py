"""The binary frame: round trips, agreement with the safetensors package, and hostile files."""

from __future__ import annotations

import json
import struct
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire.wire.errors import WireError
from gradwire.wire.safetensors import pack, unpack
from gradwire.wire.tensors import DTYPES, Array

Key = Literal["request", "response"]


def arrays(name: str) -> st.SearchStrategy[Array]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return shapes.flatmap(lambda shape: hnp.arrays(DTYPES[name], shape))


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)
tensor_maps = st.dictionaries(names, st.sampled_from(sorted(DTYPES)).flatmap(arrays), max_size=5)
documents = st.none() | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5))


def same(left: dict[str, Array], right: dict[str, Array]) -> None:
    assert list(left) == list(right)
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        assert array.shape == right[name].shape
        np.testing.assert_array_equal(array, right[name])


@given(tensor_maps, documents, st.sampled_from(["request", "response"]))
def test_a_file_survives_the_way_there_and_back(
    tensors: dict[str, Array], document: object, key: Key
) -> None:
    back, doc = unpack(b"".join(pack(tensors, document, key)), key)
    same(back, tensors)
    assert doc == (document or None)


@given(tensor_maps)
def test_the_safetensors_package_reads_what_we_write(tensors: dict[str, Array]) -> None:
    theirs = safetensors.numpy.load(b"".join(pack(tensors, {"a": 1}, "request")))
    same({name: theirs[name] for name in tensors}, tensors)
    assert len(theirs) == len(tensors)


@given(tensor_maps)
def test_we_read_what_the_safetensors_package_writes(tensors: dict[str, Array]) -> None:
    raw = safetensors.numpy.save(tensors, metadata={"request": '{"outputs": [3]}', "format": "np"})
    ours, document = unpack(raw, "request")
    same({name: ours[name] for name in tensors}, tensors)
    assert document == {"outputs": [3]}


def test_every_dtype_agrees_with_the_safetensors_package() -> None:
    tensors: dict[str, Array] = {
        "b": np.array([True, False, True]),
        "i": np.array([[-(2**63), 2**63 - 1]]),
        "f": np.array(np.nan, np.float32),
        "d": np.array([1e308, -0.0]),
    }
    ours, _ = unpack(safetensors.numpy.save(tensors), "request")
    same({name: ours[name] for name in tensors}, tensors)
    theirs = safetensors.numpy.load(b"".join(pack(tensors, None, "request")))
    same({name: theirs[name] for name in tensors}, tensors)


@pytest.mark.parametrize("shift", range(8))
def test_misaligned_bytes_give_right_arrays(shift: int) -> None:
    tensors: dict[str, Array] = {
        "a": np.arange(3, dtype=np.float64),
        "b": np.array([True, False]),
        "c": np.arange(5, dtype=np.float32),
    }
    raw = b"\0" * shift + b"".join(pack(tensors, None, "request"))
    back, _ = unpack(memoryview(raw)[shift:], "request")
    same(back, tensors)
    assert all(array.flags.aligned for array in back.values())


def test_headers_of_odd_length_are_read() -> None:
    raw = frame({"a": entry("F64", [2], 0, 16)}, np.arange(2.0).tobytes(), pad=b" " * 3)
    np.testing.assert_array_equal(unpack(raw, "request")[0]["a"], [0.0, 1.0])


def test_neither_side_copies() -> None:
    array = np.arange(1000, dtype=np.float64)
    chunks = pack({"x": array}, None, "request")
    assert np.shares_memory(np.frombuffer(chunks[1]), array)
    raw = bytearray(b"".join(chunks))
    back = unpack(raw, "request")[0]["x"]
    assert np.shares_memory(back, np.frombuffer(raw, np.uint8))


def test_arrays_of_any_layout_are_written_row_major() -> None:
    array = np.arange(6, dtype=">i8").reshape(2, 3).T
    back, _ = unpack(b"".join(pack({"x": array}, None, "response")), "response")
    np.testing.assert_array_equal(back["x"], array)


def test_other_dtypes_are_not_written() -> None:
    with pytest.raises(TypeError, match="x has dtype int32"):
        pack({"x": np.zeros(1, np.int32)}, None, "request")


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def frame(
    header: object, data: bytes = b"", *, length: int | None = None, pad: bytes = b""
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += pad
    return struct.pack("<Q", len(text) if length is None else length) + text + data


F4 = b"\0" * 4
DEEP = b'{"a":' * 100_000

HOSTILE: list[tuple[bytes, str, str]] = [
    (b"", "malformed_body", "8 bytes of length"),
    (b"\0" * 7, "malformed_body", "8 bytes of length"),
    (struct.pack("<Q", 2**63) + b"{}", "malformed_body", "claims"),
    (struct.pack("<Q", 99) + b"{}", "malformed_body", "2 are there"),
    (frame(b""), "malformed_body", "no JSON object"),
    (frame([]), "malformed_body", "no JSON object"),
    (frame(b" {}"), "malformed_body", "no JSON object"),
    (frame(b"{}x"), "malformed_body", "not JSON"),
    (frame(b'{"\xff": 1}'), "malformed_body", "not UTF-8"),
    (frame(DEEP), "malformed_body", "too deeply"),
    (frame(b'{"a": NaN}'), "malformed_body", "NaN"),
    (frame({"a": []}), "malformed_body", "no object"),
    (frame({"a": {}}), "malformed_body", "other keys"),
    (frame({"a": {**entry("F32", [1], 0, 4), "x": 1}}, F4), "malformed_body", "other keys"),
    (frame({"a": entry("F16", [2], 0, 4)}, F4), "unknown_dtype", "one of F32"),
    (frame({"a": entry(5, [2], 0, 4)}, F4), "malformed_body", "no string"),
    (frame({"a": entry("F32", [-1], 0, 4)}, F4), "malformed_body", "shape"),
    (frame({"a": entry("F32", [1.0], 0, 4)}, F4), "malformed_body", "shape"),
    (frame({"a": entry("F32", [True], 0, 4)}, F4), "malformed_body", "shape"),
    (frame({"a": entry("F32", 1, 0, 4)}, F4), "malformed_body", "shape"),
    (frame({"a": entry("F32", [1] * 33, 0, 4)}, F4), "malformed_body", "shape"),
    (frame({"a": entry("F32", [2**40, 2**40], 0, 4)}, F4), "malformed_body", "takes"),
    (frame({"a": entry("F32", [2**70], 0, 4)}, F4), "malformed_body", "shape"),
    (frame({"a": entry("F32", [2**62, 2**62, 0], 0, 0)}), "malformed_body", "too large"),
    (frame({"a": entry("F32", [2], 0, 4)}, F4), "malformed_body", "takes 8 bytes"),
    (frame({"a": entry("F32", [1], 0, 8)}, F4), "malformed_body", "no span"),
    (frame({"a": entry("F32", [1], 4, 0)}, F4), "malformed_body", "no span"),
    (frame({"a": entry("F32", [1], -4, 0)}, F4), "malformed_body", "no span"),
    (frame({"a": entry("F32", [1], 0.0, 4)}, F4), "malformed_body", "no span"),
    (frame({"a": entry("F32", [1], False, 4)}, F4), "malformed_body", "no span"),
    (
        frame({"a": {**entry("F32", [1], 0, 4), "data_offsets": [0]}}, F4),
        "malformed_body",
        "no span",
    ),
    (
        frame({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, F4),
        "malformed_body",
        "overlap",
    ),
    (
        frame({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, F4 * 3),
        "malformed_body",
        "overlap",
    ),
    (
        frame({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, F4 * 3),
        "malformed_body",
        "hole",
    ),
    (frame({"a": entry("F32", [1], 4, 8)}, F4 * 2), "malformed_body", "hole"),
    (frame({"a": entry("F32", [1], 0, 4)}, F4 + b"x"), "malformed_body", "1 bytes at its end"),
    (frame({}, b"x"), "malformed_body", "1 bytes at its end"),
    (
        frame(b'{"a":%s,"a":%s}' % ((json.dumps(entry("F32", [1], 0, 4)).encode(),) * 2), F4),
        "malformed_body",
        "'a' twice",
    ),
    (frame({"a": entry("BOOL", [4], 0, 4)}, b"\0\1\2\1"), "malformed_tensor", "0 or 1"),
    (frame({"__metadata__": []}), "malformed_body", "no object of strings"),
    (frame({"__metadata__": {"request": 1}}), "malformed_body", "no string"),
    (frame({"__metadata__": {"response": "{}"}}), "malformed_body", "unknown key"),
    (frame({"__metadata__": {"request": "{"}}), "malformed_body", "not JSON"),
    (frame({"__metadata__": {"request": ""}}), "malformed_body", "empty"),
    (frame(b'{"__metadata__": {"request": "\\ud800"}}'), "malformed_body", "surrogate"),
]


@pytest.mark.parametrize(("raw", "code", "words"), HOSTILE)
def test_a_hostile_file_is_refused_with_a_reason(raw: bytes, code: str, words: str) -> None:
    with pytest.raises(WireError) as caught:
        unpack(raw, "request")
    assert caught.value.code == code
    assert words in caught.value.reason


sizes = st.lists(st.integers(-1, 4), max_size=3)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BOOL", "I64", "F16", 3]),
        "shape": sizes | st.none(),
        "data_offsets": st.lists(st.integers(-1, 20), min_size=1, max_size=3),
    }
)


@settings(max_examples=300)
@given(st.dictionaries(names, entries, max_size=3) | st.binary(max_size=30), st.binary(max_size=20))
def test_any_bytes_are_a_file_or_a_wire_error(header: Any, data: bytes) -> None:
    for raw in (frame(header, data), data):
        try:
            tensors, _ = unpack(raw, "request")
        except WireError:
            continue
        assert sum(array.nbytes for array in tensors.values()) <= len(data)
