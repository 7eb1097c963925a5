"""A server of one's own for the length of a `with` block: what every example here starts from.

It is the real `gradwire serve` in a process of its own, on a free port of the loopback interface,
with a data directory that is removed afterwards.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["server"]


@contextmanager
def server(url: str | None = None) -> Iterator[str]:
    """The base URL of a running server: the given one's, or that of one started for the block.

    Raises:
        RuntimeError: The server ended before it said where it listens.
    """
    if url is not None:
        yield url
        return
    program = Path(sysconfig.get_path("scripts")) / "gradwire"
    with tempfile.TemporaryDirectory(prefix="gradwire-") as data:
        process = subprocess.Popen(
            [program, "serve", "--port", "0", "--data-dir", data],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _address(process: subprocess.Popen[str]) -> str:
    """The URL in the first line that the server prints; it takes connections from then on."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    if found is None:
        raise RuntimeError(f"the server did not start: {line.strip() or 'it said nothing'}")
    return found.group()
