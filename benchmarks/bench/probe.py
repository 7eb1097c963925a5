"""A function run in a fresh process: ``python -m bench.probe MODULE:FUNCTION ARGUMENTS``.

What depends on a process being new (first answers, caches, peaks of memory) is measured so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from .child import environment

TIMEOUT = 600
MARK = "\x1eprobe "


class ProbeError(Exception):
    """The process failed; what it wrote to stderr."""


def run(
    function: str,
    arguments: Mapping[str, Any],
    threads: int = 2,
    extra: Mapping[str, str] | None = None,
) -> Any:
    """What ``MODULE:FUNCTION`` of this package returns, which JSON can hold.

    Args:
        function: Such as ``limits:anchors``.
        arguments: The function's, by name.
        threads: How many each library may use.
        extra: Environment variables.

    Raises:
        ProbeError: The process failed or took longer than `TIMEOUT`.
    """
    command = [sys.executable, "-m", "bench.probe", function, json.dumps(arguments)]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).resolve().parent.parent,
            env={**environment(threads), **(extra or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"{function} took longer than {TIMEOUT} s") from error
    _, found, answer = done.stdout.rpartition(MARK)
    if done.returncode or not found:
        raise ProbeError(f"{function} ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return json.loads(answer)


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    result = getattr(import_module(f"bench.{module}"), name)(**json.loads(sys.argv[2]))
    print(MARK + json.dumps(result))
