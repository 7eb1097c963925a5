"""API keys: what is kept of them, how they are managed, and whose a key is."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gradwire_service.cli import main
from gradwire_service.errors import Unauthenticated
from gradwire_service.keys import KeyRing, is_valid, mint
from gradwire_service.local import LocalTransport
from gradwire_service.settings import Settings
from gradwire_service.sqlite_store import SqliteStore
from gradwire_service.store import KeyRow, Store, now
from tests.service.serving import Server, problem

FORM = r"gw_[0-9a-f]{16}_[A-Za-z0-9_-]{43}"


# -- in the store ----------------------------------------------------------------------------------


def test_keys_are_kept_in_order_and_end_when_revoked(store: Store) -> None:
    rows = [mint(owner, f"note {k}", days)[1] for k, (owner, days) in enumerate(OWNERS)]
    for row in rows:
        store.add_key(row)
    assert store.api_keys() == rows
    at = now()
    revoked = store.revoke_key(rows[1].id, at)
    assert revoked == replace(rows[1], revoked_at=at)
    assert store.revoke_key(rows[1].id, now()) == revoked, "the first moment stays"
    assert store.revoke_key("0" * 16, at) is None
    assert store.api_keys() == [rows[0], revoked, rows[2]]
    assert [is_valid(row, now()) for row in store.api_keys()] == [True, False, True]


OWNERS = [("alice", None), ("bob", 30.0), ("alice", 0.5)]


def test_a_key_has_an_end() -> None:
    _, row = mint("alice", days=1)
    assert row.expires_at is not None
    assert is_valid(row, now())
    assert not is_valid(row, row.expires_at)


def test_the_key_itself_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    key, row = mint("alice")
    store.add_key(row)
    store.close()
    secret = key.split("_", 2)[2].encode()
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(row.digest.encode() in data for data in kept)
    assert not any(secret in data for data in kept)


def test_a_file_from_before_there_were_keys_gets_their_table(tmp_path: Path) -> None:
    import sqlite3

    SqliteStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "gradwire.sqlite3") as sql:
        sql.execute("DROP TABLE api_keys")
    sql.close()
    store = SqliteStore(tmp_path)
    store.add_key(mint("alice")[1])
    assert len(store.api_keys()) == 1
    store.close()


@pytest.mark.parametrize("owner", ["", "a b", "-a", "é", "a/b", "a" * 65, "a\n"])
def test_owners_have_plain_names(owner: str) -> None:
    with pytest.raises(ValueError, match="cannot be an owner"):
        mint(owner)


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_days_are_some(days: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        mint("alice", days=days)


# -- whose it is -----------------------------------------------------------------------------------


class Source:
    """Keys that are read, and how often they were."""

    def __init__(self, *rows: KeyRow) -> None:
        self.rows = list(rows)
        self.reads = 0

    def load(self) -> list[KeyRow]:
        self.reads += 1
        return list(self.rows)


def test_a_key_is_found_and_a_new_one_at_once() -> None:
    (first, row), (second, late) = mint("alice"), mint("bob")
    source = Source(row)

    async def scenario() -> None:
        ring = KeyRing(source.load)
        assert (await ring.open(first)).owner == "alice"
        assert [(await ring.open(first)).owner for _ in range(100)] == ["alice"] * 100
        assert source.reads == 1
        source.rows.append(late)
        assert (await ring.open(second)).owner == "bob"

    asyncio.run(scenario())


def test_what_is_not_a_key_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    key, row = mint("alice")
    _, expired = mint("alice", days=1)
    expired = replace(expired, expires_at="2020-01-01T00:00:00.000000Z", digest=row.digest)
    other = f"gw_{row.id}_{'x' * 43}"
    stranger = f"gw_{'0' * 16}_{'x' * 43}"
    compared: list[tuple[Any, Any]] = []

    def compare(one: Any, two: Any) -> bool:
        compared.append((one, two))
        return real(one, two)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)

    async def reason(rows: list[KeyRow], text: str) -> str:
        with pytest.raises(Unauthenticated) as refused:
            await KeyRing(Source(*rows).load).open(text)
        return refused.value.reason

    async def scenario() -> None:
        for text in ("", "secret", key[:-1], key + "a", key.upper(), "gw__", "ключ", "gw_\x00"):
            assert "not of the form" in await reason([row], text)
        assert compared == []
        assert "no such key" in await reason([row], other)
        assert "no such key" in await reason([row], stranger)
        assert len(compared) == 2, "unknown ids are compared as well, in constant time"
        ended = replace(row, revoked_at=now())
        assert "was revoked" in await reason([ended], key)
        assert "has expired" in await reason([replace(expired, id=row.id)], key)

    asyncio.run(scenario())


def test_a_revoked_key_ends_within_the_age() -> None:
    key, row = mint("alice")
    source = Source(row)

    async def scenario() -> None:
        ring = KeyRing(source.load, age=0.2)
        assert (await ring.open(key)).owner == "alice"
        source.rows = [replace(row, revoked_at=now())]
        await asyncio.sleep(0.25)
        with pytest.raises(Unauthenticated):
            await ring.open(key)

    asyncio.run(scenario())


def test_invented_keys_do_not_keep_the_store_busy() -> None:
    key, row = mint("alice")
    source = Source(row)

    async def scenario() -> None:
        ring = KeyRing(source.load)
        await ring.open(key)

        async def invent(k: int) -> None:
            with pytest.raises(Unauthenticated):
                await ring.open(f"gw_{k:016x}_{'x' * 43}")

        await asyncio.gather(*(invent(k) for k in range(1000)))
        assert source.reads <= 3, "those that wait share a reading"

    asyncio.run(scenario())


# -- at the door -----------------------------------------------------------------------------------


@pytest.fixture
def keyed() -> Iterator[tuple[httpx.Client, str]]:
    """The app, keys required, and one key."""
    transport = LocalTransport(Settings(keys="required"))
    key, row = mint("alice")
    transport.app.state.service.store.add_key(row)
    with httpx.Client(transport=transport, base_url="http://local") as client:
        yield client, key


def test_a_request_needs_its_key(keyed: tuple[httpx.Client, str]) -> None:
    http, key = keyed
    for headers in (
        {},
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {key[:-1]}?"},
        [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")],
    ):
        for path in ("/v1/sessions", "/v1/limits", "/v1/ops", "/metrics"):
            answer = http.get(path, headers=headers)
            assert problem(answer, "unauthenticated")["reason"]
            assert answer.headers["www-authenticate"] == 'Bearer realm="gradwire"'
            assert key not in answer.text
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = http.get("/v1/sessions", headers={"Authorization": f"{scheme} {key}"})
        assert answer.status_code == 200
    # A name that a page elsewhere gave this server is of no use to it without a key.
    strange = {"Authorization": f"Bearer {key}", "Host": "evil.example", "Origin": "http://evil"}
    assert http.get("/v1/sessions", headers=strange).status_code == 200


def test_health_and_documentation_need_none(keyed: tuple[httpx.Client, str]) -> None:
    http, _ = keyed
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 200
    assert http.get("/").status_code == 307


# -- the command -----------------------------------------------------------------------------------


def test_create_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data-dir", str(tmp_path))
    assert main(["keys", "list", *where]) == 0
    assert f"There are no keys in {tmp_path};" in capsys.readouterr().err

    assert main(["keys", "create", "alice", "--note", "laptop", *where]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert re.fullmatch(FORM, key), "nothing else goes to stdout"
    assert f"of alice, in {tmp_path}. It cannot be shown again" in said.err
    id = key.split("_")[1]
    assert main(["keys", "create", "bob", "--days", "30", *where]) == 0
    capsys.readouterr()

    assert main(["keys", "list", *where]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "owner", "state", "created_at", "expires_at", "note"]
    assert first.split()[:3] == [id, "alice", "valid"]
    assert first.endswith("laptop")
    assert second.split()[1:3] == ["bob", "valid"]

    assert main(["keys", "revoke", id, *where]) == 0
    assert id in capsys.readouterr().out
    assert main(["keys", "list", "--json", *where]) == 0
    text = capsys.readouterr().out
    shown = json.loads(text)
    assert [row["state"] for row in shown] == ["revoked", "valid"]
    assert shown[1]["expires_at"] > shown[1]["created_at"]
    assert "digest" not in shown[0]
    assert key not in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["create", "a b"], "cannot be an owner"),
        (["create", "alice", "--days", "0"], "more than 0"),
        (["revoke", "0" * 16], "gradwire keys list"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    command: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", *command, "--data-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gradwire: ")
    assert words in error
    assert error.count("\n") == 1


# -- starting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [["--host", "0.0.0.0"], ["--host", "::"], ["--host", "127.0.0.1"]])
def test_a_server_that_nobody_could_use_does_not_start(
    more: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if more[-1] == "127.0.0.1":
        monkeypatch.setenv("GRADWIRE_KEYS", "required")
    assert main(["serve", "--port", "0", "--data-dir", str(tmp_path), *more]) == 1
    error = capsys.readouterr().err
    assert f"on {more[-1]} every request needs an API key, and there is none yet" in error
    assert "gradwire keys create" in error
    assert "GRADWIRE_KEYS=off" in error


def test_any_page_and_no_keys_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADWIRE_CORS_ORIGINS", "*")
    assert main(["serve", "--port", "0", "--data-dir", str(tmp_path)]) == 1
    assert "every web page could drive this server" in capsys.readouterr().err


def test_elsewhere_keys_are_required_unless_they_are_waived(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    key, row = mint("alice")
    store.add_key(row)
    store.close()
    with Server(tmp_path / "data", host="0.0.0.0") as server:
        local = server.url.replace("0.0.0.0", "127.0.0.1")
        problem(httpx.get(f"{local}/v1/sessions"), "unauthenticated")
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{local}/v1/sessions", headers=headers).status_code == 200
    with Server(tmp_path / "open", host="0.0.0.0", keys="off", hosts="gw.test") as server:
        assert "whoever reaches 0.0.0.0 may use this server" in server.log()
        local = server.url.replace("0.0.0.0", "127.0.0.1")
        for host, status in (("127.0.0.1", 200), ("gw.test:80", 200), ("evil.test", 403)):
            assert httpx.get(f"{local}/v1/limits", headers={"Host": host}).status_code == status


def test_a_server_that_has_keys_and_asks_for_none_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    said = "the store has API keys (1 valid), but on 127.0.0.1 none is asked for"
    store = SqliteStore(data)
    key, row = mint("alice")
    store.add_key(row)
    with Server(data) as server:
        assert said in server.log()
        assert "GRADWIRE_KEYS=required" in server.log()
        for brought in (key, "gw_of_nobody"):
            headers = {"Authorization": f"Bearer {brought}"}
            assert server.http.get("/v1/sessions", headers=headers).status_code == 200
    with Server(data, keys="required") as server:
        assert said not in server.log()
    store.revoke_key(row.id, now())
    store.close()
    with Server(data) as server:
        assert said not in server.log(), "a key that is no more is no surprise"


def test_revoking_reaches_a_server_that_runs(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    rows = [mint("alice"), mint("alice")]
    for _, row in rows:
        store.add_key(row)
    with Server(tmp_path / "data", keys="required", workers=2) as server:
        first, second = ({"Authorization": f"Bearer {key}"} for key, _ in rows)
        body = {"name": "shared", "inputs": []}
        assert server.http.post("/v1/sessions", json=body, headers=first).status_code == 201
        assert server.http.get("/v1/sessions/shared", headers=second).status_code == 200
        store.revoke_key(rows[0][1].id, now())
        for _ in range(600):
            answer = server.http.get("/v1/sessions/shared", headers=first)
            if answer.status_code == 401:
                break
            time.sleep(0.1)
        assert "was revoked" in problem(answer, "unauthenticated")["reason"]
        assert server.http.get("/v1/sessions/shared", headers=second).status_code == 200
    store.close()
