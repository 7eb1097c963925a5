"""The disk cache: shared, damaged, full, refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gradwire_engine.codegen import cache as module
from gradwire_engine.codegen.cache import Cache, default_directory, toolchain
from gradwire_engine.codegen.program import Kernel

ENTRY = ("symbol", bytes(range(256)) * 4)


def kernel(k: int = 0) -> Kernel:
    return Kernel(f"kernel = {k}\n")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


def objects(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.object"))


def test_what_was_stored_is_found_by_others(directory: Path) -> None:
    first = Cache(directory)
    assert first.get(kernel()) is None
    assert not directory.exists()  # looking makes nothing
    first.put(kernel(), ENTRY)
    assert first.get(kernel()) == ENTRY
    assert Cache(directory).get(kernel()) == ENTRY
    assert Cache(directory).get(kernel(1)) is None
    assert directory.stat().st_mode & 0o777 == 0o700
    assert len(list(directory.iterdir())) == 1


def test_another_toolchain_has_other_entries(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cache(directory).put(kernel(), ENTRY)
    monkeypatch.setattr(module, "toolchain", lambda: "of tomorrow")
    assert Cache(directory).get(kernel()) is None


def test_the_toolchain_covers_versions_processor_and_kernel_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = toolchain()
    read = Path.read_text

    def rewritten(path: Path, **how: Any) -> str:
        return read(path, **how) + "# new" * (path.name == "prelude.py")

    cases: list[tuple[Any, str, Any]] = [
        (module, "version", lambda name: f"{name} of tomorrow"),
        (sys.modules["gradwire_engine.codegen.loader"], "cpu", lambda: ("abacus", "+beads")),
        (Path, "read_text", rewritten),
    ]
    for owner, name, value in cases:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert toolchain.__wrapped__() != known
    assert toolchain.__wrapped__() == known


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_file_is_a_miss_and_is_deleted(
    directory: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(directory)
    cache.put(kernel(), ENTRY)
    (path,) = objects(directory)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    changed = {"cut": bytes(content[:-20]), "flip": bytes(content), "empty": b"", "foreign": b"?"}
    path.write_bytes(changed[damage])
    assert cache.get(kernel()) is None
    assert not path.exists()
    assert "damaged" in caplog.text
    cache.put(kernel(), ENTRY)
    assert cache.get(kernel()) == ENTRY


@pytest.mark.parametrize("refused", ["world", "group", "foreign", "link", "file"])
def test_a_directory_that_others_may_write_to_is_refused(
    directory: Path,
    refused: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Cache(directory).put(kernel(), ENTRY)
    if refused == "world":
        directory.chmod(0o707)
    elif refused == "group":
        directory.chmod(0o770)
    elif refused == "foreign":
        monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    elif refused == "link":
        other = directory.with_name("link")
        other.symlink_to(directory)
        directory = other
    else:
        directory = directory.with_name("file")
        directory.write_text("")
    cache = Cache(directory)
    assert cache.get(kernel()) is None
    cache.put(kernel(1), ENTRY)
    cache.put(kernel(2), ENTRY)
    assert cache.get(kernel(1)) == ENTRY  # from memory
    assert Cache(directory).get(kernel(1)) is None
    assert len([r for r in caplog.records if "in memory only" in r.message]) == 2  # one each


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_cannot_be_written(
    directory: Path, fault: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(directory)
    cache.put(kernel(), ENTRY)

    def fail(self: Path, target: Path) -> None:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        cache.put(kernel(1), ENTRY)
        cache.put(kernel(2), ENTRY)
    assert len(list(directory.iterdir())) == 1  # nothing half-written is left
    assert [cache.get(kernel(k)) for k in range(3)] == [ENTRY] * 3
    assert len(caplog.records) == 1
    cache.put(kernel(3), ENTRY)  # the disk is back
    assert Cache(directory).get(kernel(3)) == ENTRY


def test_memory_is_bounded_too(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.parent.mkdir()
    directory.write_text("")  # no directory
    monkeypatch.setattr(module, "MEMORY_BYTES", 5 * len(ENTRY[1]))
    cache = Cache(directory)
    for k in range(9):
        cache.put(kernel(k), ENTRY)
    assert [k for k in range(9) if cache.get(kernel(k)) is not None] == [4, 5, 6, 7, 8]


def test_the_least_recently_used_are_forgotten(directory: Path) -> None:
    whole = 1200  # a file: the entry, a checksum and a line
    cache = Cache(directory, limit=8 * whole)
    for k in range(7):
        cache.put(kernel(k), ENTRY)
    for k, path in enumerate(sorted(objects(directory), key=lambda p: p.stat().st_mtime_ns)):
        os.utime(path, (1000 + k, 1000 + k))
    assert cache.get(kernel(0)) == ENTRY  # the oldest becomes the newest
    for k in range(7, 11):
        cache.put(kernel(k), ENTRY)
    sizes = [path.stat().st_size for path in objects(directory)]
    assert sum(sizes) <= 8 * whole
    left = [k for k in range(11) if cache.get(kernel(k)) is not None]
    assert 0 in left
    assert left[-4:] == [7, 8, 9, 10]
    assert 1 not in left


def test_what_a_dead_process_left_is_removed(directory: Path) -> None:
    cache = Cache(directory, limit=1000)
    directory.mkdir(mode=0o700, parents=True)
    stale, fresh = directory / "a.1.tmp", directory / "b.2.tmp"
    for path in (stale, fresh):
        path.write_bytes(b"half")
    os.utime(stale, (1000, 1000))
    cache.put(kernel(), ENTRY)
    assert not stale.exists()
    assert fresh.exists()


def test_the_directory_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GRADWIRE_CACHE_DIR", raising=False)
    assert default_directory() == tmp_path / "gradwire"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/nobody")
    assert default_directory() == Path("/home/nobody/.cache/gradwire")
    monkeypatch.setenv("GRADWIRE_CACHE_DIR", "~/kernels")
    assert default_directory() == Path("/home/nobody/kernels")


WRITER = """
import sys
from pathlib import Path
from gradwire_engine.codegen.cache import Cache
from gradwire_engine.codegen.program import Kernel
cache = Cache(Path(sys.argv[1]), limit=200_000)
for k in range(400):
    kernel = Kernel(str(k % 50))
    entry = str(k % 50), bytes([k % 50]) * 8000
    found = cache.get(kernel)
    assert found is None or found == entry, k
    cache.put(kernel, entry)
"""


def test_processes_and_threads_share_a_directory(directory: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(directory)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    cache = Cache(directory, limit=200_000)
    wrong: list[int] = []

    def read() -> None:
        for k in range(2000):
            found = cache.get(Kernel(str(k % 50)))
            if found not in (None, (str(k % 50), bytes([k % 50]) * 8000)):
                wrong.append(k)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        _, complaints = process.communicate(timeout=100)
        assert process.returncode == 0, complaints.decode()
        assert b"damaged" not in complaints
    assert not wrong
    assert not list(directory.glob("*.tmp"))
    assert sum(path.stat().st_size for path in objects(directory)) <= 3 * 200_000
