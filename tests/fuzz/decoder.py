"""Hostile safetensors files against the decoder, by coverage: `python -m tests.fuzz.decoder`.

atheris (libFuzzer) grows inputs that reach new branches of the decoder. Half of the mutations are
of the header alone, under a length that fits: otherwise nearly all inputs would end at its first
check. Whatever comes, the decoder answers with tensors or with a fault of the contract; and what it
takes, the reference implementation takes too, and reads the same (but for `-0`, which is an integer
in JSON, and to the reference a float). libFuzzer itself stops at a hang and at a memory of more
than `RSS_MB`.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import safetensors as reference

from gradwire.wire import safetensors
from gradwire.wire.errors import WireError

RSS_MB = 512
CODES = {"malformed_body", "malformed_tensor", "unknown_dtype"}
LAYOUTS = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "BOOL": "?"}


def seeds() -> list[bytes]:
    """Sound files of all dtypes, with and without metadata, and a few that are not sound."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "inputs/x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "inputs/y": np.array(1.5),
        "cotangents/i": np.arange(3),
        "nodes/0/attrs/mask": np.array([True, False]),
        "inputs/none": np.zeros((0, 4), np.float32),
    }
    documents: list[object] = [None, {"outputs": ["y"], "deadline_ms": 5}]
    files = [
        b"".join(bytes(chunk) for chunk in safetensors.pack(some, document, "request"))
        for document in documents
        for some in ({}, {"inputs/x": arrays["inputs/x"]}, arrays)
    ]
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    files += [b"", struct.pack("<Q", 2**63), struct.pack("<Q", len(header)) + header + b"\0" * 3]
    return files


def check(data: bytes) -> bool:
    """Whether the decoder takes a file; any misbehaviour is an `AssertionError`."""
    refused: WireError | None = None
    try:
        tensors, document = safetensors.unpack(data, "request")
    except WireError as error:
        refused = error
    if refused is not None:
        assert refused.code in CODES, refused.code
        assert len(str(refused)) < 5000, "an error quotes the file at length"
        return False
    read = _by_reference(data)
    if read is not None:
        assert read.keys() == tensors.keys()
        for name, array in tensors.items():
            theirs = np.frombuffer(read[name]["data"], LAYOUTS[read[name]["dtype"]])
            assert tuple(read[name]["shape"]) == array.shape, name
            assert theirs.tobytes() == array.tobytes(), name
    again = b"".join(bytes(chunk) for chunk in safetensors.pack(tensors, document, "request"))
    same, text = safetensors.unpack(again, "request")
    assert (text or None) == (document or None) or text != text
    assert {n: a.tobytes() for n, a in same.items()} == {n: a.tobytes() for n, a in tensors.items()}
    return True


def _by_reference(data: bytes) -> dict[str, Any] | None:
    """What the reference implementation reads; None where it takes an integer for none: `-0`."""
    try:
        read = reference.deserialize(data)  # type: ignore[no-untyped-call]
    except reference.SafetensorError as error:
        if "invalid type: floating point `-0.0`" not in str(error):
            raise
        return None
    return dict(read)


def mutator(mutate: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    """A mutation that keeps the frame sound mostly, and the header JSON often."""

    def of_file(data: bytes, size: int, seed: int) -> bytes:
        if seed % 3 == 0 or len(data) < 10:
            return mutate(data, size)
        length = min(int.from_bytes(data[:8], "little"), len(data) - 8)
        header, rest = data[8 : 8 + length], data[8 + length :]
        if seed % 3 == 1:
            header = mutate(header, max(1, size - 8 - len(rest)))
        else:
            header = of_header(header, random.Random(seed))
        return (struct.pack("<Q", len(header)) + header + rest)[:size]

    return of_file


_ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 1.5, 1e308, "", "F32", "F64", "I64"),
    *("BOOL", "BF16", [], [0], [0, 0], [1, 0], [2**32, 2**32], [0, 2**62, 4], [[]], {}, {"a": 1}),
]


def of_header(header: bytes, random: random.Random) -> bytes:
    """A header with one of its values, names or fields exchanged."""
    try:
        document = json.loads(header)
    except (ValueError, RecursionError):  # another change was there before
        return header
    if not isinstance(document, dict) or not document:
        return b'{"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    name = random.choice(list(document))
    entry = document[name]
    kind = random.randrange(4)
    if kind == 0 or not isinstance(entry, dict) or not entry:
        document[name] = deepcopy(random.choice([*_ODD, *document.values()]))
    elif kind == 1:
        document[random.choice(["y", "__metadata__", name + "/", "\ud800", name * 50])] = entry
    else:
        field = random.choice(list(entry))
        value = entry[field]
        if kind == 2 and isinstance(value, list) and value:
            value[random.randrange(len(value))] = deepcopy(random.choice(_ODD))
        else:
            entry[field] = deepcopy(random.choice(_ODD))
    return json.dumps(document).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=random.getrandbits(31))
    given = parser.parse_args()

    import atheris

    for module in (safetensors, sys.modules["gradwire.wire.json"]):
        _instrument(atheris, module)
    with tempfile.TemporaryDirectory(prefix="gradwire-fuzz-") as corpus:
        for k, seed in enumerate(seeds()):
            Path(corpus, f"seed{k}").write_bytes(seed)
        options = [
            *(sys.argv[0], f"-max_total_time={given.seconds}", f"-seed={given.seed}"),
            *("-max_len=4096", "-timeout=10", f"-rss_limit_mb={RSS_MB}", "-print_final_stats=1"),
            *("-len_control=0", "-verbosity=1", corpus),
        ]
        # Looked up when it is called: it is another function once the fuzzer runs.
        mutations = mutator(lambda data, size: bytes(atheris.Mutate(data, size)))
        atheris.Setup(options, check_quietly, custom_mutator=mutations)
        atheris.Fuzz()


def check_quietly(data: bytes) -> None:
    """`check` as libFuzzer calls it."""
    check(data)


def _instrument(atheris: Any, module: Any) -> None:
    """Have a module that was imported already tell which branches it takes."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
            atheris.instrument_func(value)


if __name__ == "__main__":
    main()
