"""Resident tensors: arrays that an owner keeps on this machine under names, for runs to use.

Each is a file that is written once and never changed, and a row in an index says which file a name
means. Several names change in one transaction of the index: everybody sees all of what one request
wrote or nothing, after a crash too. A file whose row is gone is removed; who has it mapped keeps
it. All processes of the machine see the same index and files, and tell one another nothing.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson

from gradwire_engine.builder import check_name
from gradwire_engine.errors import InvalidName, QuotaExceeded

from .errors import Overloaded, TensorNotFound, UnknownTensor, close_matches
from .files import LEFTOVER_AGE, make_directory, map_array, write_files, written_at
from .sqlite_store import connect, transaction, translated
from .store import now

__all__ = ["TensorRow", "Tensors", "tensor_name"]

Array = np.ndarray[Any, Any]
Check = Callable[[int], None]

_TABLES = """
CREATE TABLE IF NOT EXISTS tensors (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    dtype TEXT NOT NULL,
    shape TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    file TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writes (
    owner TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) WITHOUT ROWID
"""

_ATTEMPTS = 1000
"""How often a name may be given another file between being looked up and being opened."""


@dataclass(frozen=True)
class TensorRow:
    """What the index says of a tensor.

    `version` is the number of its owner's write that it came with: it grows with every write of
    that owner, and tensors that were written together share it.
    """

    owner: str
    name: str
    version: int
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: str
    updated_at: str

    COLUMNS: ClassVar[str] = "owner, name, version, dtype, shape, bytes, file, updated_at"

    @classmethod
    def of_columns(cls, columns: Sequence[Any]) -> TensorRow:
        """The row that the index has, in the order of the fields."""
        owner, name, version, dtype, shape, size, file, updated_at = columns
        sizes = tuple(orjson.loads(shape))
        return cls(owner, name, version, dtype, sizes, size, file, updated_at)

    @property
    def columns(self) -> tuple[Any, ...]:
        """As `of_columns` takes it."""
        return tuple(
            orjson.dumps(field).decode() if isinstance(field, tuple) else field
            for field in astuple(self)
        )

    def document(self) -> dict[str, Any]:
        """What a caller is told of it."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "bytes": self.bytes,
            "version": self.version,
            "updated_at": self.updated_at,
        }


class Tensors:
    """The resident tensors under a directory, for one process. Any thread may call its methods.

    Args:
        directory: Where `tensors.sqlite3` and `tensors/` are; made if it is missing.
        max_count: How many one owner may have.
        max_bytes: How many bytes they may have together.
        durable: Whether what is written outlasts the machine; else only this process.
        patience: How long a write waits for another process's write, in seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_count: int,
        max_bytes: int,
        durable: bool = True,
        patience: float = 10.0,
    ) -> None:
        self._files = directory / "tensors"
        self._files.mkdir(parents=True, exist_ok=True)
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._durable = durable
        self._patience = patience
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        index = str(directory / "tensors.sqlite3")
        self._writer = connect(index, patience)
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        self._writer.execute("PRAGMA busy_timeout = 0")  # `transaction` waits
        with self._write():
            for statement in _TABLES.split(";"):
                self._writer.execute(statement)
        self._reader = connect(index, patience)
        self.sweep()

    # -- reading -----------------------------------------------------------------------------------

    def get(self, owner: str, name: str) -> tuple[TensorRow, Array]:
        """A tensor.

        Raises:
            TensorNotFound: There is none of that name.
        """
        row, array = self._mapped(owner, [name]).get(name, (None, None))
        if row is None or array is None:
            raise _not_found(name, self._suggest(owner, name))
        return row, array

    def row(self, owner: str, name: str) -> TensorRow:
        """What the index says of a tensor; raises as `get` does."""
        rows = self._rows(owner, [name])
        if not rows:
            raise _not_found(name, self._suggest(owner, name))
        return rows[0]

    def load(self, owner: str, names: Collection[str]) -> dict[str, Array]:
        """Tensors by name, as they were at one moment; read-only, and mapped, not read.

        Raises:
            UnknownTensor: There is none of one of the names; its `path` is for the caller to fill.
        """
        found = self._mapped(owner, names)
        for name in names:
            if name not in found:
                raise UnknownTensor(
                    name=name[:300],
                    path="",
                    reason=_flaw(name),
                    suggestions=self._suggest(owner, name),
                )
        return {name: array for name, (_, array) in found.items()}

    def page(self, owner: str, after: str, limit: int) -> list[TensorRow]:
        """Tensors by name, those behind `after`."""
        with self._read_lock, translated():
            found = self._reader.execute(
                f"SELECT {TensorRow.COLUMNS} FROM tensors WHERE owner = ? AND name > ?"
                " ORDER BY name LIMIT ?",
                (owner, after, limit),
            ).fetchall()
        return [TensorRow.of_columns(columns) for columns in found]

    # -- writing -----------------------------------------------------------------------------------

    def put(
        self, owner: str, arrays: Mapping[str, Array], check: Check = lambda _: None
    ) -> dict[str, TensorRow]:
        """Write tensors, all or none, each new or in the place of the one of its name.

        Args:
            owner: Whose.
            arrays: By name.
            check: Is asked with the version of each that is there now, or 0, and may raise.

        Raises:
            InvalidName: A name breaks the rules.
            QuotaExceeded: The owner would have too many, or too many bytes.
            StorageFull: The disk is full.
        """
        for name in arrays:
            tensor_name(name)
        sizes = {name: array.nbytes for name, array in arrays.items()}
        with self._read_lock, translated():
            self._admit(self._reader, owner, sizes)  # ahead of writing what would be refused
        folder = self._files / owner
        make_directory(folder)
        files = {name: secrets.token_hex(16) for name in arrays}
        try:
            named = {files[name]: array for name, array in arrays.items()}
            write_files(folder, named, durable=self._durable)
            rows, replaced = self._commit(owner, arrays, files, check)
        except Overloaded:
            raise  # of a commit that failed halfway nobody knows: what is not referred to is swept
        except BaseException:
            _remove(folder, files.values())
            raise
        _remove(folder, replaced)
        return rows

    def delete(self, owner: str, name: str, check: Check = lambda _: None) -> None:
        """Remove a tensor; `check` as in `put`.

        Raises:
            TensorNotFound: There is none of that name.
        """
        suggestions = [] if self._rows(owner, [name]) else self._suggest(owner, name)
        with self._write():
            found = self._versions(owner, [name])
            if not found:
                raise _not_found(name, suggestions)
            ((version, file),) = found.values()
            check(version)
            self._writer.execute("DELETE FROM tensors WHERE owner = ? AND name = ?", (owner, name))
        _remove(self._files / owner, [file])

    def sweep(self, age: float = LEFTOVER_AGE) -> None:
        """Remove files of that age, in seconds, that no row refers to: leftovers of crashes."""
        before = time.time() - age
        old = [path for path in self._files.glob("*/*") if written_at(path) < before]
        with self._read_lock, translated():
            kept = {file for (file,) in self._reader.execute("SELECT file FROM tensors")}
        for path in old:
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the index; arrays that were given out stay valid."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    # -- parts -------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[None]:
        """A transaction that holds the index's write lock from its start."""
        with self._write_lock, translated(), transaction(self._writer, self._patience):
            yield

    def _commit(
        self, owner: str, arrays: Mapping[str, Array], files: Mapping[str, str], check: Check
    ) -> tuple[dict[str, TensorRow], list[str]]:
        """Let names mean new files; the rows, and the files that they meant before."""
        with self._write():
            held = self._versions(owner, arrays)
            for name in arrays:
                check(held[name][0] if name in held else 0)
            sizes = {name: array.nbytes for name, array in arrays.items()}
            self._admit(self._writer, owner, sizes)
            self._writer.execute("INSERT OR IGNORE INTO writes VALUES (?, 0)", (owner,))
            self._writer.execute("UPDATE writes SET last = last + 1 WHERE owner = ?", (owner,))
            (version,) = self._writer.execute(
                "SELECT last FROM writes WHERE owner = ?", (owner,)
            ).fetchone()
            at = now()
            rows = {
                name: TensorRow(
                    *(owner, name, version, array.dtype.name),
                    *(array.shape, array.nbytes, files[name], at),
                )
                for name, array in arrays.items()
            }
            self._writer.executemany(
                f"INSERT OR REPLACE INTO tensors ({TensorRow.COLUMNS})"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [row.columns for row in rows.values()],
            )
        return rows, [file for _, file in held.values()]

    def _admit(self, sql: Any, owner: str, sizes: Mapping[str, int]) -> None:
        """Refuse what an owner has no room for, counting what would be replaced."""
        names = orjson.dumps(list(sizes)).decode()
        count, held = sql.execute(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM tensors WHERE owner = ?"
            " AND name NOT IN (SELECT value FROM json_each(?))",
            (owner, names),
        ).fetchone()
        for quota, limit, kept, wanted in (
            ("tensors", self._max_count, count, len(sizes)),
            ("tensor_bytes", self._max_bytes, held, sum(sizes.values())),
        ):
            if kept + wanted > limit:
                raise QuotaExceeded(quota=quota, limit=limit, wanted=wanted, held=kept)

    def _versions(self, owner: str, names: Collection[str]) -> dict[str, tuple[int, str]]:
        """Version and file of those names that are there; inside of a transaction."""
        found = self._writer.execute(
            "SELECT name, version, file FROM tensors WHERE owner = ?"
            " AND name IN (SELECT value FROM json_each(?))",
            (owner, orjson.dumps([n for n in names if _flaw(n) is None]).decode()),
        )
        return {name: (version, file) for name, version, file in found}

    def _rows(self, owner: str, names: Collection[str]) -> list[TensorRow]:
        with self._read_lock, translated():
            found = self._reader.execute(
                f"SELECT {TensorRow.COLUMNS} FROM tensors WHERE owner = ?"
                " AND name IN (SELECT value FROM json_each(?))",
                (owner, orjson.dumps([n for n in names if _flaw(n) is None]).decode()),
            ).fetchall()
        return [TensorRow.of_columns(columns) for columns in found]

    def _mapped(self, owner: str, names: Collection[str]) -> dict[str, tuple[TensorRow, Array]]:
        """The tensors that are there, as they were at one moment."""
        lost: set[str] = set()
        for _ in range(_ATTEMPTS):
            rows = [row for row in self._rows(owner, names) if row.file not in lost]
            try:
                return {row.name: (row, self._map(row)) for row in rows}
            except FileNotFoundError as error:
                # It was replaced since the index was read; or somebody has removed it by hand, and
                # the next look at the index finds the same file.
                lost.add(Path(error.filename).name)
        raise Overloaded(reason="these tensors are being replaced all the time")

    def _map(self, row: TensorRow) -> Array:
        return map_array(self._files / row.owner / row.file, row.dtype, row.shape)

    def _suggest(self, owner: str, name: str) -> list[str]:
        with self._read_lock, translated():
            found = self._reader.execute(
                "SELECT name FROM tensors WHERE owner = ? ORDER BY version DESC LIMIT 1000",
                (owner,),
            ).fetchall()
        return close_matches(name, [known for (known,) in found])


def tensor_name(name: str, path: str | None = None) -> str:
    """A legal name of a tensor, which is a path as well; `path` and errors as of `check_name`.

    HTTP clients shorten a path with the steps . and .. before they send it, and so would reach
    another tensor.
    """
    check_name(name, path=path)
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        reason = "between the slashes of a tensor's name stands more than nothing, . or .."
        raise InvalidName(name=name, reason=reason, path=path)
    return name


def _flaw(name: str) -> str | None:
    """What is wrong with a name that no tensor can have."""
    try:
        tensor_name(name)
    except InvalidName as error:
        return error.reason
    return None


def _not_found(name: str, suggestions: list[str]) -> TensorNotFound:
    return TensorNotFound(tensor=name[:300], reason=_flaw(name), suggestions=suggestions)


def _remove(folder: Path, files: Collection[str]) -> None:
    for file in files:
        (folder / file).unlink(missing_ok=True)
