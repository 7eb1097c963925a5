"""The app in this process, with an in-memory store."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from gradwire_service.local import LocalTransport
from gradwire_service.settings import Settings


@pytest.fixture
def app() -> Iterator[LocalTransport]:
    transport = LocalTransport(Settings())
    yield transport
    transport.close()


@pytest.fixture
def http(app: LocalTransport) -> httpx.Client:
    return httpx.Client(transport=app, base_url="http://local")
