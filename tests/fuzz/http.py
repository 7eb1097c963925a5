"""Spoilt requests over raw sockets, any number of them: `python -m tests.fuzz.http --requests N`.

Every request begins as a valid one (`seeds`) and is spoilt (`mutations`). Most keep their framing:
they are sent alone or several at once, with a length or in chunks, in one piece or in many, and
each has to be answered, in order, under its own request id. Others are cut off, or spoilt in any
byte: there it is enough that whatever comes back is HTTP, and that the connection ends when the
client has said all.

The oracle: no 500, no hang, every answer valid HTTP with a sound body (a refusal is a problem of
the catalogue), nothing unexpected in the log, and a server that is alive at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from tqdm import tqdm

from gradwire.wire import safetensors
from gradwire.wire.errors import STATUS
from tests.fuzz import mutations, seeds
from tests.fuzz.seeds import Request
from tests.service.serving import Server

PATIENCE = 60.0
"""Seconds after which a missing answer is a hang; the server's own limits are far below."""

CLIENTS = 24
SENTINEL = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

LIMITS: dict[str, Any] = {
    "max_body_bytes": 2**20,
    "memory_bytes": 2**24,
    "max_elements": 2**20,
    "max_nodes": 500,
    "max_sessions": 300,
    "session_seconds": 60,
    "run_seconds": 10,
    "header_seconds": 10,
    "body_seconds": 10,
    "log_level": "warning",
}


class Finding(AssertionError):
    """Something that must not happen, and the bytes that made it."""


@dataclass(frozen=True)
class Answer:
    """One response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def last(self) -> bool:
        """Whether the server ends the connection after it."""
        return self.headers.get("connection", "").lower() == "close"


_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\x20-\x7e]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*)")
_KNOWN = {200, 201, 204, 304, 307, *STATUS.values()} - {500}
_ONCE = {"content-length", "content-type", "x-request-id", "connection", "date", "location"}


def read(buffer: bytes, head: bool) -> tuple[Answer, int] | None:
    """The first response in a buffer and its length; None while it is not complete.

    Raises:
        Finding: It is no valid HTTP.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = buffer[:end].split(b"\r\n")
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        raise Finding(f"no status line: {first[:200]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        parts = _FIELD.fullmatch(line)
        if parts is None:
            raise Finding(f"no header: {line[:200]!r}")
        name = parts[1].decode().lower()
        if name in headers and name in _ONCE:
            raise Finding(f"{name} comes twice")
        headers[name] = parts[2].decode("latin-1")
    code = int(status[1])
    if code < 200:
        return Answer(code, headers, b""), end + 4
    if "transfer-encoding" in headers or (
        "content-length" not in headers and code not in (204, 304)
    ):
        raise Finding(f"no length: {headers}")
    size = 0 if head or code in (204, 304) else int(headers["content-length"])
    if len(buffer) < end + 4 + size:
        return None
    return Answer(code, headers, buffer[end + 4 : end + 4 + size]), end + 4 + size


def judge(answer: Answer, head: bool) -> str:
    """The error code of an answer, or nothing; raises `Finding` if it is not a sound one."""
    if answer.status not in _KNOWN:
        raise Finding(f"status {answer.status}: {answer.body[:1000]!r}")
    if "x-request-id" not in answer.headers:
        raise Finding("no request id")
    kind = answer.headers.get("content-type", "")
    if answer.status < 400:
        if kind == "application/json" and not head:
            json.loads(answer.body)
        if kind == safetensors.MEDIA_TYPE and not head:
            safetensors.unpack(answer.body, "response")
        return ""
    if kind != "application/problem+json":
        raise Finding(f"status {answer.status} with {kind!r}")
    if head:
        return "unseen"
    body = json.loads(answer.body)
    code: str = body["code"]
    sound = (
        STATUS.get(code) == body["status"] == answer.status
        and body["request_id"] == answer.headers["x-request-id"]
        and body["type"] == "/errors/" + code.replace("_", "-")
        and isinstance(body["detail"], str)
        and (answer.status not in (429, 503) or int(answer.headers["retry-after"]) > 0)
    )
    if not sound:
        raise Finding(f"no sound problem: {body}")
    return code


@dataclass
class Tally:
    """What came of it."""

    wanted: int
    progress: Callable[[int], object]
    requests: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def sent(self, count: int) -> None:
        self.requests += count
        self.progress(count)

    def got(self, answer: Answer, head: bool) -> None:
        code = judge(answer, head)
        self.answers[answer.status] += 1
        if code:
            self.codes[code] += 1


class Line(asyncio.Protocol):
    """A connection: what comes is collected, and whoever waits is woken."""

    def __init__(self) -> None:
        self.buffer = b""
        self.closed = False
        self.transport: asyncio.Transport
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # it is one

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._news.set()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._news.set()

    def write(self, data: bytes) -> None:
        """Send, unless the server has hung up already, as it may in the middle."""
        if not self.closed:
            with suppress(RuntimeError):  # uvloop: it has, and nobody was told yet
                self.transport.write(data)

    async def news(self, seconds: float) -> bool:
        """Wait for bytes or the end; False if neither comes in time."""
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def answer(self, head: bool) -> Answer | None:
        """The next answer; None if the server ends the connection instead.

        Raises:
            Finding: Neither comes.
        """
        while True:
            found = read(self.buffer, head)
            if found is not None:
                self.buffer = self.buffer[found[1] :]
                if found[0].status >= 200:
                    return found[0]
                continue
            if self.closed:
                return None
            if not await self.news(PATIENCE):
                raise Finding(f"no answer in {PATIENCE} s; so far {self.buffer[:300]!r}")


class Client:
    """Sends one case after the other."""

    def __init__(self, port: int, seed: str, tally: Tally, sound: list[Request]) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._tally = tally
        self._sound = sound
        self._line: Line | None = None
        self._count = 0

    async def run(self) -> None:
        while self._tally.requests < self._tally.wanted:
            kind = self._random.random()
            if kind < 0.9:
                await self._framed()
            elif kind < 0.95:
                await self._cut()
            else:
                await self._raw()
        if self._line is not None:
            self._line.transport.close()

    def _request(self) -> Request:
        random = self._random
        generated = random.random() < 0.3
        request = seeds.program(random) if generated else random.choice(self._sound)
        for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
            request = random.choice(mutations.MUTATIONS)(request, random)
        return request

    def _frame(self, request: Request) -> tuple[str, bytes]:
        """A request's id, and its bytes: framed by its length or in chunks."""
        self._count += 1
        id = f"{self._count}.{self._random.getrandbits(64):x}"
        lines = [f"{request.method} {request.path} HTTP/1.1", f"X-Request-Id: {id}"]
        headers = {"Host": "localhost", **request.headers}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        body = request.body
        if body and self._random.random() < 0.2:
            lines.append("Transfer-Encoding: chunked")
            body = self._chunked(body)
        elif body or request.method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass")
        return id, head + body

    def _chunked(self, body: bytes) -> bytes:
        random = self._random
        parts = []
        while body:
            size = random.choice([1, 3, 50, 5000, len(body)])
            extension = random.choice([b"", b"", b";a=b"])
            part, body = body[:size], body[size:]
            parts.append(b"%x%s\r\n%s\r\n" % (len(part), extension, part))
        return b"".join(parts) + b"0\r\n\r\n"

    async def _open(self) -> Line:
        try:
            _, line = await asyncio.get_running_loop().create_connection(
                Line, "127.0.0.1", self._port
            )
        except OSError as error:
            raise Finding(f"the server does not take connections: {error}") from None
        return line

    async def _framed(self) -> None:
        """One to four requests at once; each is answered, unless the server hangs up before it."""
        if self._line is None or self._line.closed:
            self._line = await self._open()
        line = self._line
        count = self._random.choice([1, 1, 1, 1, 2, 4])
        requests = [self._request() for _ in range(count)]
        frames = [self._frame(request) for request in requests]
        data = b"".join(frame for _, frame in frames)
        began = time.perf_counter()
        try:
            if self._random.random() < 0.1:
                at = self._random.randrange(len(data))
                line.write(data[:at])
                await asyncio.sleep(0.001)
                line.write(data[at:])
            else:
                line.write(data)
            for request, (id, _) in zip(requests, frames, strict=True):
                head = request.method == "HEAD"
                answer = await line.answer(head)
                if answer is None:
                    await self._explain(requests, [frame for _, frame in frames])
                    self._line = None
                    break
                self._tally.got(answer, head)
                if answer.headers["x-request-id"] != id and not answer.last:
                    raise Finding(f"{id} was answered as {answer.headers['x-request-id']}")
                if answer.last:
                    line.transport.close()
                    self._line = None
                    break
        except (Finding, ValueError, KeyError, RecursionError) as finding:
            raise Finding(f"{finding}\nafter {data[:5000]!r}") from finding
        self._tally.sent(count)
        self._tally.slowest = max(self._tally.slowest, time.perf_counter() - began)

    async def _explain(self, requests: list[Request], frames: list[bytes]) -> None:
        """The connection ended without an answer, which it may if what came behind is no HTTP.

        Then one of the requests, sent alone, is answered by the end of the connection.
        """
        for request, frame in zip(requests, frames, strict=True):
            line = await self._open()
            line.write(frame)
            answer = await line.answer(request.method == "HEAD")
            line.transport.close()
            if answer is None:
                raise Finding("alone, it is not answered either")
            if answer.last or len(requests) == 1:  # it was the connection, which had to end
                return
        raise Finding("the connection ended without an answer")

    async def _cut(self) -> None:
        """A request that ends early: the client says so, or is gone."""
        _, data = self._frame(self._request())
        data = data[: self._random.randrange(len(data))]
        line = await self._open()
        line.write(data)
        if self._random.random() < 0.5:
            line.transport.abort()
        else:
            await self._end(line, data)
        self._tally.sent(1)

    async def _raw(self) -> None:
        """A request that is spoilt anywhere, and a sound one behind it that ends the connection."""
        _, sound = self._frame(self._random.choice(self._sound))
        data = mutations.spoilt(sound, self._random) + SENTINEL
        line = await self._open()
        line.write(data)
        while not line.closed and await line.news(0.2):
            pass
        await self._end(line, data)
        self._tally.sent(1)

    async def _end(self, line: Line, data: bytes) -> None:
        """Say that nothing more comes; the server hangs up, having said nothing but HTTP."""
        if not line.closed:
            with suppress(OSError, RuntimeError):
                line.transport.write_eof()
        began = time.perf_counter()
        try:
            while not line.closed:
                if time.perf_counter() - began > PATIENCE:
                    raise Finding("the connection stays open")
                await line.news(1.0)
            while (found := read(line.buffer, head=False)) is not None:
                if found[0].status >= 200:
                    self._tally.got(found[0], head=False)
                line.buffer = line.buffer[found[1] :]
        except (Finding, ValueError, KeyError, RecursionError) as finding:
            raise Finding(f"{finding}\nafter {data[:5000]!r}") from finding
        line.transport.close()


async def keep_setting(server: Server) -> None:
    """Make the example session again and again: it is spoilt, and deleted, all the time."""
    while True:
        for request in seeds.SETTING:
            await asyncio.to_thread(
                server.http.request,
                request.method,
                request.path,
                headers=dict(request.headers),
                content=request.body,
            )
        await asyncio.sleep(1.0)


async def storm(server: Server, tally: Tally, seed: int) -> None:
    """Send what the tally wants.

    Raises:
        Finding: The first one.
    """
    port = int(server.url.rpartition(":")[2])
    sound = seeds.requests()
    clients = [Client(port, f"{seed}/{k}", tally, sound) for k in range(CLIENTS)]
    setting = asyncio.create_task(keep_setting(server))
    try:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())
    finally:
        setting.cancel()


def fuzz(server: Server, requests: int, seed: int, progress: Callable[[int], object]) -> Tally:
    """Send so many spoilt requests to a server.

    Raises:
        Finding: The first thing that must not happen.
    """
    tally = Tally(requests, progress)
    try:
        uvloop.run(storm(server, tally, seed))
    except* Finding as findings:
        raise Finding(str(findings.exceptions[0])) from None
    if server.process.poll() is not None:
        raise Finding(f"the server ended: {server.log()[-3000:]}")
    for line in server.log().splitlines():
        if json.loads(line)["level"] in ("error", "critical") or "trace" in line:
            raise Finding(f"in the log: {line[:300]} ... {line[-3000:]}")
    if server.http.get("/healthz").status_code != 200:
        raise Finding("the server is not well")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.getrandbits(31))
    given = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="gradwire-fuzz-") as place,
        Server(Path(place) / "data", **LIMITS) as server,
        tqdm(total=given.requests, unit=" requests", smoothing=0.05) as bar,
    ):
        try:
            tally = fuzz(server, given.requests, given.seed, bar.update)
        except Finding as finding:
            bar.close()
            print(f"FOUND with --seed {given.seed}: {finding}", file=sys.stderr)
            return 1
    seconds = time.monotonic() - began
    print(f"{tally.requests} requests in {seconds:.0f} s, {tally.requests / seconds:.0f} a second")
    print(f"the slowest was answered after {tally.slowest:.2f} s; seed {given.seed}")
    print("statuses:", dict(sorted(tally.answers.items())))
    print("codes:", dict(tally.codes.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
