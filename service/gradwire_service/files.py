"""Arrays as files: written whole or not at all, durable, and mapped into memory to be read.

Such a file holds an array's bytes, row-major and little-endian, and nothing else: dtype and shape
are kept by whoever refers to it. It is never changed once it has its name, so a mapping of it stays
what it is, also when the name goes away.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StorageFull

__all__ = [
    "LEFTOVER_AGE",
    "make_directory",
    "map_array",
    "raw",
    "room_is_needed",
    "write_files",
    "written_at",
]

LEFTOVER_AGE = 3600.0
"""Seconds after which what no commit refers to is swept away: longer than any commit takes."""

Array = np.ndarray[Any, Any]


def raw(array: Array) -> memoryview:
    """An array's bytes, row-major and little-endian; a view of it where it is so already."""
    solid = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return solid.reshape(-1).view(np.uint8).data


def write_files(directory: Path, arrays: Mapping[str, Array], *, durable: bool = True) -> None:
    """Write arrays under names that appear once all of them are there, and on the disk.

    Raises:
        StorageFull: There is no room for them; nothing is left of any.
    """
    made: dict[str, str] = {}
    with room_is_needed():
        try:
            for name, array in arrays.items():
                handle, made[name] = tempfile.mkstemp(dir=directory, prefix=".new-")
                with os.fdopen(handle, "wb") as file:
                    file.write(raw(array))
            if durable:
                # Once all are written, so that the disk has all of them to work on.
                for path in made.values():
                    _sync(path)
            for name, path in made.items():
                made[name] = str(Path(path).replace(directory / name))
            if durable:
                _sync(directory)
        except BaseException:
            for path in made.values():
                Path(path).unlink(missing_ok=True)
            raise


def make_directory(directory: Path) -> None:
    """Make a directory in one that is there, durably, unless it is there already.

    Raises:
        StorageFull: There is no room for it.
    """
    if not directory.is_dir():
        with room_is_needed():
            directory.mkdir(exist_ok=True)
            _sync(directory.parent)


def map_array(path: Path, dtype: str, shape: tuple[int, ...]) -> Array:
    """A file as a read-only array, mapped, not read.

    Raises:
        FileNotFoundError: There is no such file.
    """
    layout = np.dtype(dtype).newbyteorder("<")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
            return np.frombuffer(b"", layout).reshape(shape)
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(buffer, layout).reshape(shape)


def written_at(path: Path) -> float:
    """When a file was written, in seconds since the epoch; infinite where it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process removed it
        return math.inf


def _sync(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def room_is_needed() -> Iterator[None]:
    """A disk, or a share of it, that is full as the error that a caller can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull from error
        raise
