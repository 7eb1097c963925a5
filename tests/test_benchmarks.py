"""The benchmarks run, find wrong answers, and report what they found; no times are judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: import_module(f"bench.{name}")


def engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "engine.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--quick", "--cases", "h", "--peers", "none", "--tier", "interpreted"]
    done = engine("speed", *options, "--json", str(figures))
    assert done.returncode == 0, done.stderr
    assert "h_tiny_20ops_16" in done.stdout
    part = json.loads(figures.read_text())["speed/round"]
    assert [row["mode"] for row in part["rows"]] == ["forward", "vjp", "jvp"]
    assert all(row["times_ms"]["ours"] > 0 for row in part["rows"])
    assert {row["limit"] for row in part["rows"]} == {"call overhead"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "--cases", "zz"], "no case begins with 'zz'"),
        (["sped"], "no section is called 'sped'"),
        (["speed", "--peers", "tensorflow"], "no peer is called 'tensorflow'"),
        (["speed", "--cases", "h", "--write"], "--write is for all cases"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str) -> None:
    done = engine(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def wire(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "wire.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


@pytest.mark.slow
def test_a_quick_run_over_the_wire(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = wire("small", "--quick", "--json", str(figures))
    assert done.returncode in (0, 1), done.stderr  # no times are judged here
    found = {row["what"]: row["value"] for row in json.loads(figures.read_text())}
    assert found["16 elements, JSON: echo, p50"] > 0
    assert found["16 elements, safetensors: above it, p50"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["smal"], "no section is called 'smal'"), (["small", "--write"], "--write is for all")],
)
def test_arguments_of_the_wire_that_make_no_sense(arguments: list[str], message: str) -> None:
    done = wire(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("shapes", ["round", "odd"])
def test_every_case_is_a_graph(bench: Any, shapes: str) -> None:
    cases, ours = bench("cases"), bench("peers.ours")
    for case in cases.SHAPES[shapes]:
        graph = ours.record(case)
        result = graph.type_of(graph.outputs[0][1])
        assert result.dtype == "float32"
        assert case.differentiable
        assert (result.shape == ()) >= bool(case.mapped)


def test_data_comes_from_the_seed(bench: Any) -> None:
    cases = bench("cases")
    case = cases.find("odd", "c1_softmax_7x1021")
    once, again, other = (cases.draw(case, seed, (7, 1021)) for seed in (1, 1, 2))
    assert np.array_equal(once.inputs["x"], again.inputs["x"])
    assert not np.array_equal(once.inputs["x"], other.inputs["x"])
    assert not np.array_equal(once.inputs["x"], once.tangents["x"])


def test_answers_are_compared_by_their_size(bench: Any) -> None:
    worst = bench("compare").worst
    y, g = np.array([1.0, 1000.0]), np.array([1.0])
    assert worst([y, g], [y, g]) == 0
    assert worst([y + 1e-3, g], [y, g]) < 1  # a millionth of the largest entry
    assert worst([y + 1.0, g], [y, g]) > 1
    assert worst([y, np.array([2e-7]), g], [y, np.array([0.0]), g]) < 1  # cancels exactly
    assert worst([y * np.nan, g], [y, g]) == np.inf
    assert worst([y], [y, g]) == np.inf
    assert worst([y[:1], g], [y, g]) == np.inf


def test_the_summary_names_what_misses(bench: Any) -> None:
    def row(family: str, ratio: float, difference: float = 0.0) -> dict[str, Any]:
        return {
            "case": family,
            "mode": "vjp",
            "family": family,
            "ratio": ratio,
            "differences": {"jax": difference},
            "noisy": False,
        }

    found = bench("report").summary([row("conv", 2.0), row("softmax", 0.8), row("tiny", 0.625, 2)])
    assert found["geometric_mean"] == pytest.approx(1.0)
    assert found["families"] == pytest.approx({"conv": 2.0, "softmax": 0.8, "tiny": 0.625})
    assert found["above_1.2"] == {"conv vjp": 2.0}
    assert found["bound_above_0.7"] == {"softmax vjp": 0.8}
    assert found["different_answers"] == ["tiny vjp"]


def test_work_is_counted(bench: Any) -> None:
    cases, work = bench("cases"), bench("limits").work
    product = cases.find("round", "g1_matmul_1024")
    assert work(product, "forward").flops == 2 * 1024**3
    assert work(product, "vjp").flops == 6 * 1024**3
    assert work(product, "forward").bytes == 3 * 4 * 1024**2
    conv = cases.find("round", "d1_conv3x3_64_64_56")
    assert work(conv, "forward").flops == 2 * 64 * 64 * 9 * 56 * 56
    assert work(conv, "jvp").flops == 3 * 2 * 64 * 64 * 9 * 56 * 56
    softmax = cases.find("odd", "c1_softmax_7x1021")
    assert work(softmax, "forward").arithmetic == 20 * 7 * 1021
    assert work(product, "forward").arithmetic == 0
