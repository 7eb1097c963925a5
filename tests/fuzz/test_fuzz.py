"""Short forms of the fuzzers; `make fuzz` runs the long ones, with a progress bar and figures."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz import decoder
from tests.fuzz.http import LIMITS, Answer, Finding, fuzz, judge, read
from tests.service.serving import Server

SECONDS = 8
REQUESTS = 2000


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits."""
    with Server(tmp_path_factory.mktemp("victim") / "data", **LIMITS) as server:
        yield server


@pytest.mark.slow
def test_spoilt_requests(victim: Server, record_property: Callable[[str, object], None]) -> None:
    tally = fuzz(victim, REQUESTS, seed=20240229, progress=lambda _: None)
    record_property("codes", dict(tally.codes))
    assert tally.requests >= REQUESTS
    assert len(tally.codes) > 15, "nearly all are refused for the same few reasons"
    assert tally.answers[200] > REQUESTS // 20, "hardly any gets far"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="atheris is for Linux")
def test_hostile_safetensors(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.decoder", "--seconds", str(SECONDS), "--seed", "1"]
    # libFuzzer judges the peak of its memory, in which the kernel counts the process that it was
    # forked from: one of the tests' own would weigh hundreds of MB, a shell does not.
    forked = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(forked, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    assert executed
    assert int(executed[1]) > len(decoder.seeds())
    assert int(covered[-1]) > 50, "the decoder is not seen by the fuzzer"


def test_the_oracle_knows_sound_files() -> None:
    assert [decoder.check(seed) for seed in decoder.seeds()] == [True] * 6 + [False] * 3


def test_the_oracle_knows_that_minus_zero_is_an_integer() -> None:
    header = b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[-0,0]}}'
    assert decoder.check(struct.pack("<Q", len(header)) + header)


def test_headers_are_changed_and_stay_json() -> None:
    (*_, header) = (seed[8:] for seed in decoder.seeds() if len(seed) > 60)
    changed = {decoder.of_header(header[:54], random.Random(k)) for k in range(50)}
    assert len(changed) > 20


SOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nx-request-id: a\r\n\r\n{}"


def test_the_oracle_reads_answers() -> None:
    assert read(SOUND[:-1], head=False) is None
    found = read(SOUND + b"HTTP", head=False)
    assert found is not None
    answer, size = found
    assert (answer.status, answer.body, size) == (404, b"{}", len(SOUND))
    for spoilt in (
        SOUND.replace(b"HTTP/1.1", b"HTTP 1.1"),
        SOUND.replace(b": a", b": a\r\nx-request-id: b"),
        SOUND.replace(b"content-length: 2\r\n", b""),
        SOUND.replace(b"x-request-id: a", b"x request-id: a"),
    ):
        with pytest.raises(Finding):
            read(spoilt, head=False)


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (500, "application/problem+json", b"{}"),
        (418, "application/problem+json", b"{}"),
        (404, "text/plain", b"not here"),
        (
            404,
            "application/problem+json",
            b'{"code": "memory_limit", "status": 404, "request_id": "a", "type": "", "detail": ""}',
        ),
    ],
)
def test_the_oracle_finds(status: int, kind: str, body: bytes) -> None:
    headers = {"x-request-id": "a", "content-type": kind}
    with pytest.raises(Finding):
        judge(Answer(status, headers, body), head=False)
