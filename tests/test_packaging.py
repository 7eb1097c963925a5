"""What `pip install .` gives: the client and nothing else, in an environment that has only that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.first, pytest.mark.slow]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment into which only the base distribution was installed."""
    home = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    done = run(programs / "python", "-m", "pip", "install", "--quiet", str(ROOT))
    assert done.returncode == 0, done.stderr
    return programs


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=200)


def test_the_client_comes_alone(bare: Path) -> None:
    listed = run(bare / "python", "-m", "pip", "list", "--format", "json")
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert names <= {
        *("gradwire", "httpx", "numpy", "orjson"),
        *("anyio", "certifi", "h11", "httpcore", "idna", "typing_extensions"),  # those of httpx
        *("pip", "setuptools"),
    }
    assert run(bare / "python", "-W", "error", "-c", "import gradwire").returncode == 0


def test_it_says_what_a_server_needs(bare: Path) -> None:
    local = run(bare / "python", "-c", "import gradwire; gradwire.local()")
    assert local.stderr.splitlines()[-1].endswith(
        'pip install "gradwire[service]", or ".[service]" in a clone.'
    )
    serve = run(bare / "gradwire", "serve")
    assert serve.returncode == 1
    assert 'pip install "gradwire[service]"' in serve.stderr
    assert "Traceback" not in serve.stderr
