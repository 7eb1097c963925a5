"""Large array attributes, kept beside the log: one immutable file each, named by its SHA-256.

A blob is written and synced before the log entry that needs it is committed, and removed only while
the store's write lock is held and no log refers to it, so that no committed entry ever lacks one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .files import map_array, raw, write_files

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

    def ensure(self, sha256: str, array: np.ndarray[Any, Any]) -> None:
        """Make the blob durable, unless it is there already.

        Raises:
            StorageFull: There is no room for it.
        """
        if self._directory is None:
            if sha256 not in self._memory:
                self._memory[sha256] = bytes(raw(array))
            return
        if not (self._directory / sha256).exists():
            write_files(self._directory, {sha256: array})

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

    def sweep(self, used: Callable[[str], bool], age: float) -> None:
        """Remove the files of that age, in seconds, that nobody uses: leftovers of lost commits."""
        if self._directory is None:
            return
        before = time.time() - age
        for path in self._directory.iterdir():
            try:
                if path.stat().st_mtime < before and not used(path.name):
                    path.unlink()
            except FileNotFoundError:  # another process sweeps too
                continue
