"""What tests of more than one part need: a PostgreSQL of their own, and how long to go on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.postgres import Cluster, programs

# Services that tests start interpret, unless a test says otherwise: thousands of small graphs, each
# run once, would keep a compiler busy all the time.
os.environ.setdefault("GRADWIRE_COMPILE", "false")

# How long an example takes is for no machine to say.
hypothesis.settings.register_profile("gradwire", deadline=None)
hypothesis.settings.load_profile("gradwire")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="the long form of tests that have one: make faults"
    )


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
