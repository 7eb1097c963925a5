"""Schemathesis over the OpenAPI document, against the real server.

The document names no 500, so that an answer with one is a finding like any other undocumented
status. The long form (`make fuzz`) tries at least 5,000 cases.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gradwire_service.openapi_examples import STORY
from tests.service.serving import Server

CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)
# Coverage of each op's schema takes minutes for these; their bodies are fuzzed instead.
LARGE = ("appendNodes", "execute")


@pytest.mark.first
@pytest.mark.slow
@pytest.mark.parametrize(
    ("phases", "examples", "excluded"),
    [("examples,coverage", 10, LARGE), ("fuzzing", 25, ())],
    ids=["coverage", "fuzzing"],
)
def test_schemathesis(
    server: Server,
    tmp_path: Path,
    phases: str,
    examples: int,
    excluded: tuple[str, ...],
    long: bool,
    record_property: Callable[[str, object], None],
) -> None:
    server.http.delete("/v1/sessions/example")
    assert server.http.post("/v1/sessions", json=STORY["createSession", "new"]).is_success
    nodes = STORY["appendNodes", "layer"]
    assert server.http.post("/v1/sessions/example/nodes", json=nodes).is_success
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--phases", phases),
        *("--max-examples", str(examples * 20 if long else examples)),
        *("--checks", ",".join(CHECKS)),
        *("--seed", "20240229"),
        "--no-color",
    ]
    for operation in ("deleteSession", *excluded):
        command += ["--exclude-operation-id", operation]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=14000)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases
    record_property("cases", int(cases[1]))
    if long and "fuzzing" in phases:
        assert int(cases[1]) >= 5000
