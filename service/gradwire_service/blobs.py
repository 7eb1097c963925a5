"""Large array attributes, kept beside the log: one immutable file each, named by its SHA-256.

A blob is written and synced before the log entry that needs it is committed, and removed only while
the store's write lock is held and no log refers to it, so that no committed entry ever lacks one.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StorageFull

__all__ = ["LEFTOVER_AGE", "Blobs", "digest", "raw"]

LEFTOVER_AGE = 3600.0
"""Seconds after which what no commit refers to is swept away: longer than any commit takes."""


def digest(array: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array's bytes, row-major and little-endian."""
    return hashlib.sha256(raw(array)).hexdigest()


def raw(array: np.ndarray[Any, Any]) -> memoryview:
    """An array's bytes, row-major and little-endian; a view of it where it is so already."""
    solid = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return solid.reshape(-1).view(np.uint8).data


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
        path = self._directory / sha256
        if path.exists():
            return
        try:
            _write_file(path, raw(array))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StorageFull from error
            raise

    def load(self, sha256: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """The blob as a read-only array; a file is mapped, not read.

        Raises:
            FileNotFoundError: There is no such blob.
        """
        buffer: bytes | mmap.mmap
        if self._directory is None:
            if sha256 not in self._memory:
                raise FileNotFoundError(sha256)
            buffer = self._memory[sha256]
        else:
            with (self._directory / sha256).open("rb") as file:
                buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(buffer, np.dtype(dtype).newbyteorder("<")).reshape(shape)

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


def _write_file(path: Path, data: memoryview) -> None:
    """A file that is there whole or not at all, and durable."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
