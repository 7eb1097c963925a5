"""Ways to spoil a request. Each takes a sound one and gives one that somebody else might send."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import Any

from gradwire_service.bodies import zstd
from tests.fuzz.decoder import of_header
from tests.fuzz.seeds import JSON, Request

ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        2**31,
        2**53 + 1,
        2**63,
        -(2**63) - 1,
        10**400,
        1.5,
        1e308,
    ),
    *(-0.0, "", "x", "y", "h", "0", "-1", "NaN", "Infinity", "\ud800", "\0", "é" * 300, "a" * 5000),
    *("float32", "int64", "ses_x", "../../etc/passwd", "example", "__proto__", "inputs/x"),
    *([], [[]], [None], [0], [1, 2, 3], [[1.0], [2.0, 3.0]], [1e999], {}, {"id": 0}, {"id": -1}),
    *({"id": 3, "shape": [2]}, {"dtype": "float32", "shape": [2], "data": [1, 2]}),
    *({"base64": "AAAA"}, {"dtype": "int64", "shape": [2**40, 2**40], "data": []}, {"tensor": "t"}),
    *({"transform": "vjp"}, {"op": "tanh", "inputs": ["x"]}, [0] * 200),
]
LITERALS = [
    b"NaN",
    b"1e999",
    b"-",
    b"01",
    b'"\\ud800"',
    b"{" * 3000,
    b"[" * 100_000,
    b"\xff",
    b",,",
]


def document(request: Request, random: Random) -> Request:
    """One to three changes to the JSON of the body, or to the header of a binary one."""
    if request.binary:
        length = int.from_bytes(request.body[:8], "little")
        header = of_header(request.body[8 : 8 + length], random)
        frame = struct.pack("<Q", len(header)) + header + request.body[8 + length :]
        return replace(request, body=frame)
    try:
        body = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        return request
    for _ in range(random.randint(1, 3)):
        body = _changed(body, random)
    text = json.dumps(body).encode()
    if random.random() < 0.1:
        at = random.randrange(len(text) + 1)
        text = text[:at] + random.choice(LITERALS) + text[at:]
    return replace(request, headers={"Content-Type": JSON, **request.headers}, body=text)


def _changed(value: Any, random: Random) -> Any:
    """A JSON value with something inside exchanged, doubled, renamed or gone."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        name = random.choice(list(value))
        kind = random.randrange(8)
        if kind == 0:
            del value[name]
        elif kind == 1:
            value[random.choice(["extra", "Inputs", "", "data", "shape", "vmap"])] = value[name]
        elif kind == 2:
            value[name] = deepcopy(random.choice(ODD))
        else:
            value[name] = _changed(value[name], random)
        return value
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        kind = random.randrange(6)
        if kind == 0:
            del value[at]
        elif kind == 1:
            value.insert(at, value[at])
        else:
            value[at] = _changed(value[at], random)
        return value
    return deepcopy(random.choice(ODD))


def body_bytes(request: Request, random: Random) -> Request:
    """Bytes of the body flipped, doubled, cut out or cut off."""
    return replace(request, body=spoilt(request.body, random))


def spoilt(data: bytes, random: Random) -> bytes:
    """Bytes with one to four small faults."""
    text = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(text) + 1)
        kind = random.randrange(6)
        if kind == 0 and at < len(text):
            text[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            text[at:at] = random.randbytes(random.randint(1, 4))
        elif kind == 2:
            del text[at : at + random.randint(1, 16)]
        elif kind == 3:
            text[at:at] = text[at : at + random.randint(1, 64)]
        elif kind == 4:
            del text[at:]
        elif at < len(text):
            text[at] = random.choice(b'\0\r\n :,"{}[]0-9eE\xff%/')
    return bytes(text)


def target(request: Request, random: Random) -> Request:
    """Another path or query."""
    path = request.path
    pieces = [
        "%00",
        "%2e%2e/",
        "//",
        "%FF",
        "?since=-1",
        "?limit=0",
        "?shape=2,3",
        "?shape=,",
        "?a=b",
    ]
    pieces += [
        "?since=1&since=2",
        "%ED%A0%80",
        "/data",
        "?attr=value",
        "é",
        "#x",
        ";",
        "?cursor=AA",
    ]
    pieces += ["/" + "x" * 3000, "?" + "a=b&" * 500, "/9" * 5, "?shape=99999999999999999999"]
    kind = random.randrange(4)
    if kind == 0:
        path += random.choice(pieces)
    elif kind == 1:
        parts = path.split("/")
        parts[random.randrange(len(parts))] = random.choice(
            ["", "..", "0", "-1", "example", "nobody", "h", "y%2Fz", "%", "tanh", "*", "{sid}"]
        )
        path = "/".join(parts)
    elif kind == 2:
        at = random.randrange(len(path) + 1)
        path = path[:at] + random.choice(pieces) + path[at:]
    else:
        path = random.choice(["*", "", "/", "http://localhost/healthz", "/v1", "/v1/sessions/"])
    return replace(request, path=path or "/")


def method(request: Request, random: Random) -> Request:
    """Another method."""
    others = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "PROPFIND"]
    return replace(request, method=random.choice(others))


_HEADERS: list[tuple[str, list[str]]] = [
    (
        "Content-Type",
        [JSON, "application/x-safetensors", "text/plain", "", "application/json; charset=utf-16"],
    ),
    ("Accept", ["application/x-safetensors", "*/*;q=0", "application/json;q=9e9", "q=;,", "\xff"]),
    ("If-Match", ['"0"', '"4"', "*", 'W/"1"', "x", '"99999999999999999999"', ",", '"1", "4"']),
    ("Idempotency-Key", ["k", "k2", "", "x" * 255, "x" * 256, "\xff", "a b"]),
    ("Content-Encoding", ["gzip", "zstd", "identity", "br", "gzip, gzip", "deflate"]),
    ("Host", ["localhost", "evil.example", "", "127.0.0.1:1", "[::1]", "a\xffb"]),
    ("Origin", ["null", "http://localhost", "http://evil.example", "", "file://"]),
    ("Authorization", ["Bearer x", "Bearer gw_0_0", "Basic YTpi", ""]),
    ("Expect", ["100-continue", "200-ok"]),
    ("Range", ["bytes=0-1", "bytes=-"]),
    ("Upgrade", ["websocket", "h2c"]),
    ("Cookie", ["a=b; " * 200]),
    ("Traceparent", ["00-0-0-0", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]),
    ("X-Padding", ["x" * 4000, "x" * 70_000]),
    ("Connection", ["keep-alive", "close", "upgrade", "x, y"]),
]


def header(request: Request, random: Random) -> Request:
    """A header set, or one dropped."""
    headers = dict(request.headers)
    for _ in range(random.randint(1, 2)):
        name, values = random.choice(_HEADERS)
        headers[name] = random.choice(values)
    if random.random() < 0.1 and headers:
        del headers[random.choice(list(headers))]
    return replace(request, headers=headers)


def compressed(request: Request, random: Random) -> Request:
    """A compressed body, perhaps with faults, perhaps one that would grow."""
    body = (
        request.body
        if random.random() < 0.8
        else request.body + b" " * random.choice([1000, 2**21])
    )
    encoding = random.choice(["gzip", "zstd"])
    packed = gzip.compress(body, 1) if encoding == "gzip" else zstd.compress(body)
    if random.random() < 0.4:
        packed = spoilt(packed, random)
    return replace(request, headers={**request.headers, "Content-Encoding": encoding}, body=packed)


MUTATIONS: list[Callable[[Request, Random], Request]] = [
    *(
        document,
        document,
        document,
        document,
        body_bytes,
        target,
        method,
        header,
        header,
        compressed,
    )
]
"""Changes after which a request still is one: its framing stays sound, so it has one answer."""
