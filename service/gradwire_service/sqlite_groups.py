"""A group of appends as one statement of SQLite, which is a transaction by itself.

Each statement makes Python give up the interpreter's lock, and wait for it behind whatever the
event loop does meanwhile: in a busy server that takes longer than the writing. So a group is one
row, inserted into a view of this connection, and the view's trigger does all that there is to do.

The lists of a row are JSON: `lines` of [session, from version, to version]; `entries` of [session,
position, first, length], where `documents` has the document, counted from 1; and `receipts` of
[owner, route, session, key, digest, first, length]. `expired` is when the oldest receipts that
still count were written. What JSON functions read from is kept short: each time they compare it
with what they parsed last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson

from .store import Append, Scope, now

__all__ = ["COMMIT", "PREPARE", "row_of"]

PREPARE = """
CREATE TEMP VIEW appends AS SELECT
    0 AS lines, 0 AS entries, 0 AS receipts, 0 AS documents, 0 AS updated_at, 0 AS written,
    0 AS expired;
CREATE TEMP TRIGGER commit_appends INSTEAD OF INSERT ON appends BEGIN
    SELECT RAISE(ABORT, 'done') FROM json_each(NEW.receipts) AS new JOIN receipts AS old
        ON old.owner = json_extract(new.value, '$[0]')
        AND old.route = json_extract(new.value, '$[1]')
        AND old.session = json_extract(new.value, '$[2]')
        AND old.key = json_extract(new.value, '$[3]')
        WHERE old.written > NEW.expired;
    UPDATE sessions SET
        version = json_extract(line.value, '$[2]'),
        updated_at = NEW.updated_at
        FROM json_each(NEW.lines) AS line
        WHERE number = json_extract(line.value, '$[0]')
        AND version = json_extract(line.value, '$[1]');
    SELECT RAISE(ABORT, 'moved') WHERE changes() <> json_array_length(NEW.lines);
    INSERT INTO log (session, position, document) SELECT
        json_extract(value, '$[0]'),
        json_extract(value, '$[1]'),
        substr(NEW.documents, json_extract(value, '$[2]'), json_extract(value, '$[3]'))
        FROM json_each(NEW.entries);
    DELETE FROM receipts WHERE NEW.receipts <> '[]' AND written <= NEW.expired;
    INSERT INTO receipts (owner, route, session, key, digest, document, written) SELECT
        json_extract(value, '$[0]'),
        json_extract(value, '$[1]'),
        json_extract(value, '$[2]'),
        json_extract(value, '$[3]'),
        json_extract(value, '$[4]'),
        substr(NEW.documents, json_extract(value, '$[5]'), json_extract(value, '$[6]')),
        NEW.written
        FROM json_each(NEW.receipts);
END
"""
"""What has to be there on a connection, once."""

COMMIT = "INSERT INTO appends VALUES (?, ?, ?, ?, ?, ?, ?)"
"""Commits a row; an `IntegrityError` says that there is something against some append of it."""

_BYTES = 2**24
"""The most bytes of documents in a row; SQLite has several copies of them."""


def row_of(group: Sequence[Append], retention: float) -> tuple[Any, ...] | None:
    """The row that commits a group; None where it cannot be one.

    Args:
        group: In the order in which it is to be committed.
        retention: How long receipts count, in seconds.
    """
    lines: dict[int, list[int]] = {}
    entries: list[tuple[int, int, int, int]] = []
    receipts: dict[Scope, tuple[Any, ...]] = {}
    documents: list[bytes] = []
    end = 1
    for number, version, added, receipt, line in group:
        moves = lines.get(number)
        if moves is None:
            moves = lines[number] = [number, version, version]
        if line.broken or version != moves[2]:
            return None
        for document, blobs in added:
            if blobs:  # whose files have to be seen to
                return None
            entries.append((number, moves[2], end, len(document)))
            documents.append(document)
            end += len(document)
            moves[2] += 1
        if receipt is not None:
            scope, size = receipt.scope, len(receipt.document)
            if scope in receipts:
                return None
            receipts[scope] = *scope.columns, receipt.digest, end, size
            documents.append(receipt.document)
            end += size
        if end - 1 > _BYTES:
            return None
    written = time.time()
    lists = list(lines.values()), entries, list(receipts.values())
    return (
        *(orjson.dumps(each).decode() for each in lists),
        b"".join(documents),
        now(),
        written,
        written - retention,
    )
