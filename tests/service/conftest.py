"""The app in this process, with an in-memory store; and each kind of store by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from gradwire_service.local import LocalTransport
from gradwire_service.postgres_store import PostgresStore
from gradwire_service.settings import Settings
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import Store
from tests.postgres import Cluster


@pytest.fixture
def app() -> Iterator[LocalTransport]:
    transport = LocalTransport(Settings())
    yield transport
    transport.close()


@pytest.fixture
def http(app: LocalTransport) -> httpx.Client:
    return httpx.Client(transport=app, base_url="http://local")


@pytest.fixture
def place(address: str, tmp_path: Path) -> Callable[[], Store]:
    """Opens the same store again, as another process would."""
    if address == "sqlite":
        return partial(SqliteStore, tmp_path)
    return partial(PostgresStore, address, tmp_path)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("postgres")
        opened = PostgresStore(cluster.schema(), tmp_path)
    else:
        opened = SqliteStore(None if request.param == "memory" else tmp_path)
    yield opened
    opened.close()
