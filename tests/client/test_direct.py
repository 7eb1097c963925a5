"""The client's own way over plain HTTP, against a server that does as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

import gradwire as gw
from gradwire._direct import Direct
from gradwire._protocol import CHUNK, SMALL, Attempt, Lost, Reply

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def address(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


class Scripted:
    """Accepts connections, and says to each what stands in the script for it, request by request.

    Attributes:
        heard: What came, by connection.
    """

    def __init__(self, *script: list[bytes], reads: bool = True) -> None:
        self.heard: list[bytes] = []
        self._script = script
        self._reads = reads
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open = [self._socket]
        self.url = address(self._socket)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answers in self._script:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed: the test is over
                return
            self._open.append(connection)
            with connection, suppress(OSError):
                self.heard.append(b"")
                for answer in answers:
                    if self._reads:
                        self._request(connection)
                    connection.sendall(answer)

    def _request(self, connection: socket.socket) -> None:
        came = b""
        while b"\r\n\r\n" not in came:
            came += self._piece(connection)
        head, _, body = came.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        while len(body) < length:
            body += self._piece(connection)
        self.heard[-1] += head + b"\r\n\r\n" + body

    def _piece(self, connection: socket.socket) -> bytes:
        piece = connection.recv(1 << 20)
        if not piece:
            raise ConnectionError("the client is gone")
        return piece

    def close(self) -> None:
        for each in self._open:
            with suppress(OSError):  # it is closed, or the client did so
                each.shutdown(socket.SHUT_RDWR)  # which wakes the thread, where closing would not
        self._socket.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def direct() -> Iterator[Callable[..., Direct]]:
    """Makes pools, which are closed at the end."""
    with ExitStack() as stack:

        def make(url: str, timeout: float = 10.0, **headers: str) -> Direct:
            made = Direct(url, headers, timeout=timeout, patience=timeout)
            return stack.enter_context(closing(made))

        yield make


def get(path: str = "/v1/limits", **query: str) -> Attempt:
    return Attempt("GET", path, query, {}, ())


def post(*chunks: bytes) -> Attempt:
    return Attempt("POST", "/v1/execute", {}, {"Content-Type": "application/json"}, chunks)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["length", "chunks", "end"])
def answer(request: pytest.FixtureRequest) -> bytes:
    """The same answer, its length told in each way there is."""
    kinds = {
        "length": b"Content-Length: 5\r\n\r\nhello",
        "chunks": b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "end": b"Connection: close\r\n\r\nhello",
    }
    return b"HTTP/1.1 200 OK\r\nX-Request-Id: 7\r\n" + kinds[request.param]


def test_answers_of_every_kind_are_read(answer: bytes, direct: Callable[..., Direct]) -> None:
    with closing(Scripted([answer])) as server:
        reply = direct(server.url).send(get(), None)
        assert isinstance(reply, Reply)
        assert (reply.status, bytes(reply.body), reply.headers["x-request-id"]) == (
            200,
            b"hello",
            "7",
        )


def test_a_request_is_written_as_http(answer: bytes, direct: Callable[..., Direct]) -> None:
    ends = b"Connection: close" in answer
    with closing(Scripted([answer], [OK]) if ends else Scripted([answer, OK])) as server:
        pool = direct(f"{server.url}/prefix/", Authorization="Bearer k")
        pool.send(get("/v1/tensors", cursor="a b&c"), None)
        pool.send(post(b"{", b"}"), None)
        heard = b"".join(server.heard)
    assert heard.startswith(b"GET /prefix/v1/tensors?cursor=a%20b%26c HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Bearer k\r\n" in heard
    assert b"POST" in heard
    assert b"\r\ncontent-length: 2\r\n" in heard
    assert heard.endswith(b"\r\n\r\n{}")


def test_one_connection_serves_one_after_the_other(direct: Callable[..., Direct]) -> None:
    with closing(Scripted([OK, OK, OK])) as server:
        pool = direct(server.url)
        assert all(isinstance(pool.send(get(), None), Reply) for _ in range(3))
        assert len(server.heard) == 1


def test_a_connection_that_the_server_ended_is_not_used(direct: Callable[..., Direct]) -> None:
    with closing(Scripted([OK], [OK])) as server:
        pool = direct(server.url)
        for _ in range(2):
            assert isinstance(pool.send(get(), None), Reply)
            while pool._idle and pool._idle[-1].usable:
                pass
        assert len(server.heard) == 2


def test_a_forked_process_has_connections_of_its_own(
    direct: Callable[..., Direct], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Scripted([OK], [OK])) as server:
        pool = direct(server.url)
        assert isinstance(pool.send(get(), None), Reply)
        monkeypatch.setattr("os.getpid", lambda: -1)
        assert isinstance(pool.send(get(), None), Reply)
        assert len(server.heard) == 2


def test_large_bodies_go_both_ways_and_are_measured(direct: Callable[..., Direct]) -> None:
    size = 9 << 20
    seen: list[tuple[str, float]] = []

    class Meter:
        def __init__(self, what: str, _size: int) -> None:
            self.what = what

        def update(self, n: float = 1, /) -> None:
            seen.append((self.what, n))

        def close(self) -> None: ...

    body = bytes(range(256)) * (size // 256)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body
    with closing(Scripted([answer])) as server:
        reply = direct(server.url).send(post(body[:5], body[5:]), Meter)
        assert isinstance(reply, Reply)
        assert bytes(reply.body) == body
        assert server.heard[0].endswith(body)
    assert {what: sum(n for w, n in seen if w == what) for what, _ in seen} == {
        "sending": size,
        "receiving": size,
    }
    assert max(n for _, n in seen) <= CHUNK


def test_an_answer_that_comes_before_the_end_of_the_request_counts(
    direct: Callable[..., Direct],
) -> None:
    """As a refusal of a body that is too large: the server does not read it, and closes."""
    refusal = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    with closing(Scripted([refusal], reads=False)) as server:
        outcome = direct(server.url).send(post(bytes(64 << 20)), None)
    # Where the reset overtakes the answer there is none to be had, as with any client.
    assert isinstance(outcome, Lost) or outcome.status == 413


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "closed connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "3 of 5 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "IncompleteRead"),
        (b"what?\r\n\r\n", "what?"),
    ],
)
def test_half_an_answer_is_a_broken_connection(
    said: bytes, reason: str, direct: Callable[..., Direct]
) -> None:
    with closing(Scripted([said])) as server:
        lost = direct(server.url).send(get(), None)
    assert isinstance(lost, Lost)
    assert lost.how == "broken"
    assert reason in lost.reason
    assert lost.url == server.url


def test_nobody_is_there(direct: Callable[..., Direct]) -> None:
    server = Scripted()
    server.close()
    lost = direct(server.url).send(get(), None)
    assert isinstance(lost, Lost)
    assert (lost.how, lost.url) == ("unreached", server.url)


def test_patience_ends(direct: Callable[..., Direct]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lost = direct(address(silent), 0.05).send(get(), None)
    assert isinstance(lost, Lost)
    assert lost.how == "timeout"


def test_a_header_stays_on_its_line(direct: Callable[..., Direct]) -> None:
    pool = direct("http://127.0.0.1:9", **{"X-Tag": "a\r\nX-Other: b"})
    with pytest.raises(ValueError, match="'x-tag' has a line break"):
        pool.send(get(), None)


def test_threads_share_the_pool_and_wait_for_room(
    monkeypatch: pytest.MonkeyPatch, direct: Callable[..., Direct]
) -> None:
    monkeypatch.setattr("gradwire._direct._MOST", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pool = direct(address(silent), 0.3)
        outcomes: list[Reply | Lost] = []
        threads = [
            threading.Thread(target=lambda: outcomes.append(pool.send(get(), None)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {o.how for o in outcomes if isinstance(o, Lost)} <= {"timeout", "unreached"}
    assert len(outcomes) == 2


def test_a_closed_client_says_so(direct: Callable[..., Direct]) -> None:
    with closing(Scripted([OK])) as server:
        pool = direct(server.url)
        pool.send(get(), None)
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            pool.send(get(), None)


# -- when it is used -------------------------------------------------------------------------------


def used(url: str, **options: object) -> bool:
    with gw.connect(url, **options) as client:  # type: ignore[arg-type]
        return client._connection._direct is not None


@pytest.mark.parametrize(
    ("url", "serves"),
    [
        ("http://localhost:8000", True),
        ("http://[::1]:8000/under/a/path", True),
        ("https://localhost", False),
        ("http://name:word@localhost", False),
        ("http://bücher.example", False),
        ("http://localhost/?a=b", False),
    ],
)
def test_what_needs_more_is_left_to_httpx(url: str, serves: bool) -> None:
    assert used(url) == serves


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost")


@pytest.mark.usefixtures("proxied")
def test_so_are_proxies() -> None:
    assert not used("http://example.com")
    assert used("http://localhost:8000")


def test_small_bodies_go_out_in_one_piece(direct: Callable[..., Direct]) -> None:
    """The server would wake up twice."""
    assert len(b"".join(post(bytes(SMALL // 2)).chunks)) <= SMALL
    with closing(Scripted([OK])) as server:
        direct(server.url).send(post(bytes(SMALL // 2)), None)
        assert len(server.heard[0]) > SMALL // 2
