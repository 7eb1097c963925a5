"""The client's tests: a scripted server for what travels, the real app for what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import httpx
import pytest

from gradwire import Client, Session
from gradwire._client import AsyncClient
from gradwire._connection import Config
from gradwire._protocol import RetryPolicy
from gradwire.wire import json as wire_json
from gradwire.wire import safetensors
from gradwire.wire.errors import STATUS, problem
from gradwire.wire.messages import BINARY, JSON, PROBLEM
from gradwire.wire.tensors import Array

PROMPT = Config(policy=RetryPolicy(first_wait=0.0))


@dataclass
class Sent:
    """A request as the server saw it."""

    method: str
    path: str
    headers: httpx.Headers
    query: dict[str, str]
    document: Any
    tensors: dict[str, Array]


Answering = Callable[[Sent], httpx.Response | Exception]


@dataclass
class Script:
    """A server that keeps what it was sent and answers as told, else as a plain session would."""

    inputs: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    special: list[Answering] = field(default_factory=list)

    @property
    def version(self) -> int:
        return len(self.nodes)

    def handle(self, request: httpx.Request) -> httpx.Response:
        sent = _read(request)
        self.sent.append(sent)
        if self.special:
            answer = self.special.pop(0)(sent)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return self.answer(sent)

    async def handle_async(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self.handle(request)

    def answer(self, sent: Sent) -> httpx.Response:
        """Every node has shape [2] and dtype float32, unless it is a const."""
        if sent.path.endswith("/nodes"):
            wanted = sent.headers.get("If-Match")
            if wanted is not None and wanted != f'"{self.version}"':
                facts = {"expected": int(wanted.strip('"')), "actual": self.version}
                return self.refuse("version_conflict", **facts)
            added = [self.node(entry) for entry in sent.document["nodes"]]
            return _json({"version": self.version, "nodes": added}, 201)
        if sent.method == "POST" and sent.path == "/v1/sessions":
            specs = sent.document.get("inputs", [])
            self.inputs = [
                {"id": k, "dtype": "float32", "differentiable": True, **spec}
                for k, spec in enumerate(specs)
            ]
            return _json(self.session(), 201)
        if sent.path.endswith("/outputs"):
            outputs = dict.fromkeys(sent.document["outputs"], 0)
            return _json({"outputs": outputs, "outputs_version": 1, "version": self.version})
        return _json(self.session(since=int(sent.query.get("since", 0))))

    def node(self, entry: dict[str, Any]) -> dict[str, Any]:
        node = {
            "id": len(self.inputs) + len(self.nodes),
            "attrs": {},
            "name": None,
            "shape": [2],
            "dtype": "float32",
            **entry,
        }
        self.nodes.append(node)
        return node

    def session(self, since: int = 0) -> dict[str, Any]:
        return {
            "id": "ses_1",
            "name": "n",
            "version": self.version,
            "outputs_version": 0,
            "inputs": self.inputs,
            "nodes": self.nodes[since:],
            "outputs": {},
            "created_at": "",
            "updated_at": "",
            "expires_at": None,
        }

    def refuse(self, code: str, **facts: object) -> httpx.Response:
        body = wire_json.dumps(problem(code, STATUS[code], "no", facts))
        return httpx.Response(STATUS[code], headers={"Content-Type": PROBLEM}, content=body)

    @property
    def appends(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.path.endswith("/nodes")]


def _read(request: httpx.Request) -> Sent:
    body = request.read()
    tensors: dict[str, Array] = {}
    document: Any = None
    if request.headers.get("Content-Type") == BINARY:
        tensors, document = safetensors.unpack(body, "request")
    elif body:
        document = wire_json.loads(body)
    query = dict(request.url.params)
    return Sent(request.method, request.url.path, request.headers, query, document, tensors)


def _json(document: object, status: int = 200) -> httpx.Response:
    content = wire_json.dumps(document)
    return httpx.Response(status, headers={"Content-Type": JSON}, content=content)


@pytest.fixture
def script() -> Script:
    """The scripted server."""
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    """A client of the scripted server."""
    http = httpx.Client(base_url="http://test", transport=httpx.MockTransport(script.handle))
    with Client(http, PROMPT) as made:
        yield made


@pytest.fixture
def async_client(script: Script) -> AsyncClient:
    """An async client of the scripted server; it holds no connection that needs closing."""
    transport = httpx.MockTransport(script.handle_async)
    return AsyncClient(httpx.AsyncClient(base_url="http://test", transport=transport), PROMPT)


@pytest.fixture
def g(client: Client) -> Session:
    """A session of the scripted server with inputs x and w of shape [2]."""
    return client.session({"x": (2,), "w": (2,)})


@pytest.fixture(scope="session")
def real() -> Iterator[Client]:
    """The real service, in this process."""
    import gradwire

    with gradwire.local() as made:
        yield made


class Bridge(httpx.AsyncBaseTransport):
    """An async way into a synchronous transport, one request at a time."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        plain = httpx.Request(request.method, request.url, headers=request.headers, content=body)
        response = self.inner.handle_request(plain)
        return httpx.Response(
            response.status_code, headers=response.headers, content=response.read()
        )


@pytest.fixture(scope="session")
def bridge() -> Iterator[Bridge]:
    """The real service, for async clients."""
    (entry,) = metadata.entry_points(group="gradwire.local")
    transport = entry.load()()
    yield Bridge(transport)
    transport.close()
