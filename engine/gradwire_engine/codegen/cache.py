"""Compiled kernels on disk, shared by processes and kept over restarts.

A file's name is the digest of all that its contents depend on: the kernel's source text, the code
of this package that it calls, the versions of the compilers, and the processor. So an entry never
goes stale; it is only forgotten when the directory grows beyond its bound, the least recently used
first. Files appear whole, by renaming, and carry a checksum; one that is damaged is deleted.

What is stored is executed. So the directory must belong to the user who runs this process, and
nobody else may write to it; any other is refused. Where there is no directory to be had, or it
cannot be written, entries are kept in memory, and one warning says so.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import secrets
import stat
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .forks import forgets
from .program import Kernel

_log = logging.getLogger(__name__)

DISK_BYTES = 512 << 20
"""How large the directory may grow."""

MEMORY_BYTES = 32 << 20
"""How much is kept in memory where there is no directory."""

_MAGIC = b"gradwire object 1\n"
_SUFFIX = ".object"
_STALE_SECONDS = 600.0  # a temporary file this old was left by a process that died

Entry = tuple[str, bytes]
"""The symbol of a kernel, and the object file that has it."""


@cache
def toolchain() -> str:
    """Identifies what turns source text into machine code here, beside the text itself."""
    from .loader import cpu

    parts = [platform.machine(), sys.version, *cpu()]
    parts += [version(name) for name in ("numba", "llvmlite", "numpy")]
    folder = Path(__file__).parent
    files = [folder / name for name in _SOURCES]
    for package in ("kernels", "vmath"):
        files += sorted((folder / package).rglob("*.py"))
    parts += [f"{path.relative_to(folder)} {path.read_text()}" for path in files]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


_SOURCES = (
    *("compile.py", "driver.py", "loader.py", "prelude.py", "words.py"),
    *("lowering/conv_blocks.py", "lowering/products.py"),
)


def default_directory() -> Path:
    """``GRADWIRE_CACHE_DIR``, or the user's cache directory."""
    given = os.environ.get("GRADWIRE_CACHE_DIR")
    if given:
        return Path(os.path.expanduser(given))
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "gradwire"


class Cache:
    """A store of compiled kernels. Safe to share between threads, its directory between processes.

    Args:
        directory: Where files are kept; made when something is stored. None: `default_directory`.
        limit: Bytes that the directory may hold.
    """

    def __init__(self, directory: Path | None = None, limit: int = DISK_BYTES) -> None:
        self._directory = directory
        self._limit = limit
        self.after_fork()
        forgets(self)
        self._memory: OrderedDict[str, Entry] = OrderedDict()
        self._warned = False
        self._size: int | None = None  # bytes in the directory, as far as this process knows

    def after_fork(self) -> None:
        """Begin anew: nobody holds the lock."""
        self._lock = threading.Lock()

    @property
    def directory(self) -> Path:
        """Where files are kept."""
        if self._directory is None:
            self._directory = default_directory()
        return self._directory

    def get(self, kernel: Kernel) -> Entry | None:
        """The compiled kernel, if it is known here."""
        key = _key(kernel)
        with self._lock:
            held = self._memory.get(key)
        if held is not None:
            return held
        path = self.directory / (key + _SUFFIX)
        try:
            self._check_directory()
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        entry = _unpack(content)
        with suppress(OSError):
            if entry is None:
                _log.warning("a damaged file in the kernel cache is deleted: %s", path)
                path.unlink()
            else:
                os.utime(path)
        return entry

    def nbytes(self) -> int:
        """What the files in the directory take."""
        return sum(size for _, size, _ in self._files())

    def put(self, kernel: Kernel, entry: Entry) -> None:
        """Store a compiled kernel: on disk, or in memory where that fails."""
        key = _key(kernel)
        content = _pack(entry)
        temporary = self.directory / f"{key}.{secrets.token_hex(8)}.tmp"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_directory()
            try:
                with open(temporary, "xb") as file:
                    file.write(content)
                temporary.rename(self.directory / (key + _SUFFIX))
            except OSError:
                with suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            self._warn(error)
            self._remember(key, entry)
        else:
            self._shrink(len(content))

    def _check_directory(self) -> None:
        """Refuse a directory that somebody else may have written to."""
        found = os.lstat(self.directory)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{self.directory} is not a directory")
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"others may write to {self.directory}")

    def _remember(self, key: str, entry: Entry) -> None:
        with self._lock:
            self._memory[key] = entry
            while sum(len(image) for _, image in self._memory.values()) > MEMORY_BYTES:
                self._memory.popitem(last=False)

    def _warn(self, error: OSError) -> None:
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            _log.warning("compiled kernels are kept in memory only: %s", error)

    def _files(self) -> list[tuple[float, int, str]]:
        """When each file in the directory was last used, its size and its path."""
        files = []
        with suppress(OSError), os.scandir(self.directory) as entries:
            for entry in entries:
                with suppress(OSError):  # another process may have deleted it
                    about = entry.stat(follow_symlinks=False)
                    files.append((about.st_mtime, about.st_size, entry.path))
        return files

    def _shrink(self, added: int) -> None:
        """Delete the least recently used files, if the directory has grown beyond its bound."""
        with self._lock:
            if self._size is not None:
                self._size += added
            if self._size is not None and self._size <= self._limit:
                return
            files = self._files()
            size = sum(nbytes for _, nbytes, _ in files)
            now, wanted = time.time(), self._limit - self._limit // 8
            too_large = size > self._limit
            for used, nbytes, path in sorted(files):
                abandoned = path.endswith(".tmp") and now - used > _STALE_SECONDS
                evicted = path.endswith(_SUFFIX) and too_large and size > wanted
                if abandoned or evicted:
                    with suppress(OSError):
                        os.unlink(path)
                    size -= nbytes
            self._size = size


def _key(kernel: Kernel) -> str:
    return hashlib.sha256(f"{toolchain()} {kernel.digest}".encode()).hexdigest()


def _pack(entry: Entry) -> bytes:
    symbol, image = entry
    body = symbol.encode() + b"\n" + image
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpack(content: bytes) -> Entry | None:
    """The entry in a file; None if it is damaged."""
    start = len(_MAGIC) + hashlib.sha256().digest_size
    body = content[start:]
    if (
        not content.startswith(_MAGIC)
        or content[len(_MAGIC) : start] != hashlib.sha256(body).digest()
    ):
        return None
    symbol, _, image = body.partition(b"\n")
    return symbol.decode(), image
