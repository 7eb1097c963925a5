"""The examples, and the code in the README and the guides, run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from local_server import server

import gradwire as gw

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.slow


@pytest.fixture
def url() -> Iterator[str]:
    with server() as address:
        yield address


def example(name: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


def test_every_example_is_tested() -> None:
    programs = {p.name for p in (ROOT / "examples").glob("*.py") if "__main__" in p.read_text()}
    tested = set(re.findall(r'example\("(\w+\.py)"', Path(__file__).read_text()))
    assert programs == tested


def test_train_digits(tmp_path: Path) -> None:
    output = example("train_digits.py", "--epochs", "8", "--out", str(tmp_path))
    accuracy = re.search(r"Test accuracy: ([\d.]+)%", output)
    assert accuracy is not None
    assert float(accuracy[1]) > 95.0
    assert "ShapeMismatch: linear: operand x should have shape [64], got [10]." in output
    assert re.search(r"source='.*train_digits\.py:\d+'", output)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    names = {text.text for text in svg_texts(tmp_path / "graph.svg")}
    assert {"x", "logits = linear", "loss = cross_entropy"} <= names
    derived = {text.text for text in svg_texts(tmp_path / "gradient-graph.svg")}
    assert "cotangent.loss" in derived


def svg_texts(path: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(path).iter(f"{SVG}text"))


def test_train_digits_on_a_running_server(tmp_path: Path, url: str) -> None:
    output = example(
        "train_digits.py", "--epochs", "1", "--hidden", "10", "--url", url, "--out", str(tmp_path)
    )
    assert f"The server is at {url}" in output


def test_train_resident(tmp_path: Path) -> None:
    weights = tmp_path / "weights.npz"
    output = example("train_resident.py", "--epochs", "5", "--out", str(weights))
    accuracy = re.search(r"Test accuracy: ([\d.]+)%", output)
    assert accuracy is not None
    assert float(accuracy[1]) > 90.0
    assert "16,896 bytes; 38,440 bytes of weights stay" in output
    assert weights.exists()


def test_rest_walkthrough() -> None:
    output = example("rest_walkthrough.py")
    assert "422 shape_mismatch: matmul: operand b" in output
    pulled = re.search(r"VJP .* \[([-\d.e]+),", output)
    pushed = re.search(r"JVP .* \[([-\d.e]+)\]", output)
    assert pulled is not None
    assert pushed is not None
    assert float(pulled[1]) == pytest.approx(float(pushed[1]), rel=1e-6)


def test_hessian_vector_product() -> None:
    assert example("hessian_vector_product.py").endswith("minimum at [1. 1. 1. 1.]\n")


def test_graphm_style() -> None:
    output = example("graphm_style.py")
    assert "refused: value 0 has shape [2, 3], but the handle says [3, 2]" in output
    assert "value 0.0 tangent 0.786447" in output


@pytest.mark.parametrize(
    "page", ["README.md", "docs/index.md", "docs/guide.md", "docs/resident.md"]
)
def test_python_on_the_page(page: str, url: str, tmp_path: Path) -> None:
    program = "\n".join(blocks(page, "python")).replace("http://127.0.0.1:8000", url)
    path = tmp_path / "page.py"
    path.write_text(program)
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("page", "refusals"),
    [("README.md", ["shape_mismatch"]), ("docs/rest.md", []), ("docs/resident.md", [])],
)
def test_curl_on_the_page(page: str, refusals: list[str], url: str) -> None:
    program = "\n".join(blocks(page, "bash")).replace("http://127.0.0.1:8000", url)
    command = ["bash", "-euo", "pipefail", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.findall(r'"code": ?"(\w+)"', done.stdout) == refusals


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_javascript_on_the_page(url: str, tmp_path: Path) -> None:
    with gw.connect(url) as client:
        g = client.session({"x": (3,), "w": (2, 3), "b": (2,)}, name="guide")
        g.linear(g.w, g.b, g.x).tanh().sum(name="y")
    (program,) = blocks("docs/rest.md", "js")
    path = tmp_path / "page.mjs"
    path.write_text(program.replace("http://127.0.0.1:8000", url))
    done = subprocess.run(["node", path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"shape: \[ 3 \].*0\.0216152", done.stdout, re.S)
