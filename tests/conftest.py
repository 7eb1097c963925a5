"""What tests of more than one part need: a PostgreSQL, a kernel cache, and who runs what when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from gradwire_engine.codegen.team import processors
from tests.postgres import Cluster, programs

# Services that tests start interpret, unless a test says otherwise: thousands of small graphs, each
# run once, would keep a compiler busy all the time.
os.environ.setdefault("GRADWIRE_COMPILE", "false")

# Kernels that are compiled once serve all tests and all later runs: they are found by their text.
os.environ.setdefault("GRADWIRE_CACHE_DIR", str(Path(__file__).parents[1] / ".venv/kernels"))

# How long an example takes is for no machine to say.
hypothesis.settings.register_profile("gradwire", deadline=None)
hypothesis.settings.load_profile("gradwire")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="the long form of tests that have one: make faults"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two processes a processor: many tests wait for a server, a compiler or a clock."""
    return 2 * processors()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest goes first, so that nobody is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether a test that has a long form is to take its time."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A running PostgreSQL, one for each process of the test run."""
    bin = programs()
    if bin is None:
        reason = "NO POSTGRESQL HERE, ITS TESTS DO NOT RUN: apt-get install postgresql"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with Cluster(bin) as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest) -> str:
    """What `GRADWIRE_STORE` says for a store of one's own that outlives a process."""
    if request.param == "sqlite":
        return "sqlite"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.schema()
