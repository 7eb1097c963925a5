"""Schemathesis over the OpenAPI document, against the real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.serving import Server

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)


@pytest.mark.slow
def test_schemathesis(server: Server, target: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "15"),
        *("--checks", ",".join(CHECKS)),
        *("--exclude-operation-id", "deleteSession"),
        *("--seed", "20240229"),
        *("--no-color",),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
