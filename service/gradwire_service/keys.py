"""API keys: what they look like, how they are kept, and whose a request is.

A key is `gw_<id>_<secret>`. The store keeps its SHA-256 and never the key: a secret is 256 random
bits, so no slow hash is needed to make guessing hopeless. A `KeyRing` holds all keys in memory and
reads them again every few seconds, so that a check costs no store read and a revoked key ends soon.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import anyio

from .errors import Unauthenticated
from .store import KeyRow, moment, now

__all__ = ["LOCAL", "KeyRing", "check_owner", "is_valid", "mint"]

LOCAL = "local"
"""The owner of everything on a server without keys; keys made for it reach the same sessions."""

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_MOST_DAYS = 36_500
_FORM = re.compile(r"gw_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


def check_owner(owner: str) -> str:
    """An owner's name, unchanged.

    Raises:
        ValueError: It is none.
    """
    if _OWNER.fullmatch(owner):
        return owner
    raise ValueError(
        f"{owner!r} cannot be an owner: it is 1 to 64 of letters, digits and _.@-, the first a "
        "letter or digit"
    )


def mint(owner: str, note: str = "", days: float | None = None) -> tuple[str, KeyRow]:
    """A new key, to be shown once, and what is kept of it.

    Args:
        owner: Whose resources it reaches.
        note: What it is for.
        days: How long it is valid; None: until it is revoked.

    Raises:
        ValueError: The owner's name is none, or the days are.
    """
    if days is not None and not 0 < days <= _MOST_DAYS:
        raise ValueError(f"a key is valid for more than 0 and at most {_MOST_DAYS} days")
    id = secrets.token_hex(8)
    key = f"gw_{id}_{secrets.token_urlsafe(32)}"
    expires = None if days is None else moment(datetime.now(UTC) + timedelta(days=days))
    row = KeyRow(
        id=id,
        owner=check_owner(owner),
        note=note,
        digest=_digest(key),
        created_at=now(),
        expires_at=expires,
        revoked_at=None,
    )
    return key, row


def is_valid(row: KeyRow, at: str) -> bool:
    """Whether a key opens anything at a moment, as `now` writes it."""
    return row.revoked_at is None and (row.expires_at is None or at < row.expires_at)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("ascii")).hexdigest()


_NOBODY = "0" * 64
_AGE = 2.0
_PAUSE = 0.1


class KeyRing:
    """The keys of a store. To be used on one event loop.

    Args:
        load: Reads all keys; may block.
        age: A key's revocation is seen within so many seconds.
    """

    def __init__(self, load: Callable[[], list[KeyRow]], age: float = _AGE) -> None:
        self._load = load
        self._age = age
        self._rows: Mapping[str, KeyRow] = {}
        self._read = -float("inf")
        self._reading = asyncio.Lock()

    async def open(self, key: str) -> KeyRow:
        """What is kept of a key: its id, whose it is.

        Raises:
            Unauthenticated: It is none, or is not valid any more.
        """
        return _checked(key, await self._find(_id(key)))

    def recall(self, key: str) -> KeyRow | None:
        """The same without a look at the store; None where that has to be asked.

        Raises:
            Unauthenticated: As in `open`.
        """
        row = None
        if time.monotonic() - self._read <= self._age:
            row = self._rows.get(_id(key))
        return None if row is None else _checked(key, row)

    async def _find(self, id: str) -> KeyRow | None:
        asked = time.monotonic()
        if asked - self._read > self._age:
            await self._refresh(asked)
        if id not in self._rows:  # it may be new
            await self._refresh(asked)
        return self._rows.get(id)

    async def _refresh(self, asked: float) -> None:
        """Have the keys read at or after a moment; one reading serves all who wait for it."""
        async with self._reading:
            if self._read >= asked:
                return
            # Strangers with invented keys shall not keep the store busy.
            await asyncio.sleep(self._read + _PAUSE - time.monotonic())
            began = time.monotonic()
            rows = await anyio.to_thread.run_sync(self._load)
            self._rows, self._read = {row.id: row for row in rows}, began


def _id(key: str) -> str:
    """The part of a key that says which one it is."""
    form = _FORM.fullmatch(key)
    if form is None:
        raise Unauthenticated(reason="what came is not of the form of one, gw_<id>_<secret>")
    return form[1]


def _checked(key: str, row: KeyRow | None) -> KeyRow:
    """What is kept of a key, if it is that one and opens anything now."""
    expected = _NOBODY if row is None else row.digest
    if not hmac.compare_digest(_digest(key), expected) or row is None:
        raise Unauthenticated(reason="there is no such key")
    if not is_valid(row, now()):
        ended = "was revoked" if row.revoked_at is not None else "has expired"
        raise Unauthenticated(reason=f"the key {row.id} {ended}")
    return row
