"""Large array attributes, kept beside the log: one immutable file each, named by its SHA-256.

A blob is written and synced before the log entry that needs it is committed, and removed only while
the store's write lock is held and no log refers to it, so that no committed entry ever lacks one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .files import LEFTOVER_AGE, map_array, raw, write_files, written_at

__all__ = ["Blobs", "digest"]


def digest(array: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array's bytes, row-major and little-endian."""
    return hashlib.sha256(raw(array)).hexdigest()


class Blobs:
    """A content-addressed set of byte strings, in a directory or (None) in memory."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._memory: dict[str, bytes] = {}
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def ensure(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Make arrays durable, by their SHA-256, as far as they are not there already.

        Raises:
            StorageFull: There is no room for them.
        """
        if self._directory is None:
            for sha256 in arrays.keys() - self._memory.keys():
                self._memory[sha256] = bytes(raw(arrays[sha256]))
            return
        missing = {n: array for n, array in arrays.items() if not (self._directory / n).exists()}
        if missing:
            write_files(self._directory, missing)

    def load(self, sha256: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """The blob as a read-only array; a file is mapped, not read.

        Raises:
            FileNotFoundError: There is no such blob.
        """
        if self._directory is not None:
            return map_array(self._directory / sha256, dtype, shape)
        if sha256 not in self._memory:
            raise FileNotFoundError(sha256)
        layout = np.dtype(dtype).newbyteorder("<")
        return np.frombuffer(self._memory[sha256], layout).reshape(shape)

    def discard(self, sha256: str) -> None:
        """Forget a blob; arrays that were loaded stay valid."""
        if self._directory is None:
            self._memory.pop(sha256, None)
        else:
            (self._directory / sha256).unlink(missing_ok=True)

    def old(self, age: float = LEFTOVER_AGE) -> list[str]:
        """The files of that age, in seconds: those that nobody refers to were left behind."""
        before = time.time() - age
        return [
            path.name
            for path in (self._directory.iterdir() if self._directory is not None else ())
            if written_at(path) < before
        ]
