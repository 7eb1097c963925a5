"""`gradwire keys`: make, list and revoke API keys, in the store that the server uses."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .settings import Settings
    from .store import KeyRow, Store

__all__ = ["add_parser", "opened", "run"]

_EXAMPLES = """\
examples:
  gradwire keys create alice --note laptop     prints the key, which is kept nowhere else
  gradwire keys create alice --days 90         another, for a while, to the same sessions
  gradwire keys create local                   reaches what was made before there were keys
  gradwire keys list
  gradwire keys revoke 3f9c2a51b7e80d46        refused within two seconds

A key goes into the header `Authorization: Bearer <key>`; the Python client takes it as
gw.connect(url, api_key=...) or from GRADWIRE_API_KEY.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of `gradwire keys`."""
    keys = commands.add_parser(
        "keys",
        help="make, list and revoke API keys",
        description="Make, list and revoke API keys.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = keys.add_subparsers(dest="action", metavar="action", required=True)
    create = actions.add_parser("create", help="make a key and print it, once")
    create.add_argument("owner", help="whose sessions it reaches: letters, digits and _.@-")
    create.add_argument("--note", default="", help="what the key is for")
    create.add_argument("--days", type=float, help="how long it is valid (default: until revoked)")
    show = actions.add_parser("list", help="list the keys, without the keys themselves")
    show.add_argument("--json", action="store_true", help="as JSON, with all there is to say")
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("id", help="the key's id, as `list` shows it")
    for parser in (create, show, revoke):
        parser.add_argument("--data-dir", type=Path, help="the server's data directory")


def run(given: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked; returns the exit status.

    Raises:
        RuntimeError: It cannot be done; the message says why.
    """
    with opened(settings) as store:
        # Told, as a server that uses another store does not know these keys.
        where = str(settings.data_path) if settings.store == "sqlite" else "PostgreSQL"
        if given.action == "create":
            return _create(store, where, given)
        if given.action == "revoke":
            return _revoke(store, where, given.id)
        return _list(store.api_keys(), where, given.json)


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """The store of the settings, for a short while.

    Raises:
        RuntimeError: It cannot be used; the message says why.
    """
    from .app import open_store

    try:
        store = open_store(settings)
    except (OSError, sqlite3.Error) as error:
        raise RuntimeError(f"the data directory cannot be used: {error}") from None
    try:
        yield store
    finally:
        store.close()


def _create(store: Store, where: str, given: argparse.Namespace) -> int:
    from .keys import mint

    try:
        key, row = mint(given.owner, given.note, given.days)
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    store.add_key(row)
    print(
        f"The key {row.id} of {row.owner}, in {where}. It cannot be shown again:", file=sys.stderr
    )
    print(key)
    return 0


def _revoke(store: Store, where: str, id: str) -> int:
    from .store import now

    row = store.revoke_key(id, now())
    if row is None:
        raise RuntimeError(f"there is no key {id!r} in {where}; `gradwire keys list` shows them")
    print(f"The key {row.id} of {row.owner} is revoked since {row.revoked_at}.")
    return 0


def _list(rows: list[KeyRow], where: str, as_json: bool) -> int:
    from .keys import is_valid
    from .store import now

    at = now()
    shown: list[dict[str, Any]] = [
        {
            "id": row.id,
            "owner": row.owner,
            "state": "valid" if is_valid(row, at) else "revoked" if row.revoked_at else "expired",
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "revoked_at": row.revoked_at,
            "note": row.note,
        }
        for row in rows
    ]
    if as_json:
        print(json.dumps(shown, indent=2))
    elif not shown:
        print(
            f"There are no keys in {where}; `gradwire keys create OWNER` makes one.",
            file=sys.stderr,
        )
    else:
        print("\n".join(_table(shown)))
    return 0


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = ("id", "owner", "state", "created_at", "expires_at", "note")
    lines = [columns, *(tuple(str(row[name] or "-") for name in columns) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    for line in lines:
        cells = (f"{cell:{width}}" for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()
