"""The public face: names, generated methods, what importing costs, what lacks without extras."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import gradwire as gw
from gradwire import errors
from gradwire._ops import OPS, SAME_TYPE, SessionOps, TensorOps
from gradwire._session import BaseSession
from gradwire._tensor import BaseTensor

ROOT = Path(__file__).resolve().parents[2]


def public(module: types.ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "annotations"
        and not (isinstance(value, types.ModuleType) and name not in ("errors",))
    }


def test_all_names_the_public_names() -> None:
    assert sorted(gw.__all__) == sorted(public(gw))
    assert list(gw.__all__) == sorted(gw.__all__)


def test_every_error_is_exported() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.GradwireError)
    }
    assert set(errors.__all__) == classes | {"BY_CODE"}
    assert all(getattr(errors, name).__doc__ for name in classes)


def test_every_op_is_a_method_and_hides_none_of_ours() -> None:
    from gradwire_engine import ops

    assert set(ops.CATALOGUE) == OPS
    assert SAME_TYPE < OPS
    for name in OPS:
        assert callable(getattr(SessionOps, name))
        assert getattr(SessionOps, name).__doc__
    assert not OPS & set(vars(BaseSession))
    assert {name for name in OPS & set(vars(BaseTensor)) if hasattr(TensorOps, name)} == {"sum"}


def test_the_generated_file_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gen_client.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_client_imports_neither_engine_nor_service() -> None:
    code = (
        "import sys, gradwire, gradwire.wire.messages; "
        "print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"gradwire_engine", "gradwire_service", "numba", "scipy", "fastapi", "pydantic"}
    assert not heavy & set(eval(done.stdout))


def test_the_wire_alone_imports_no_httpx_of_its_own() -> None:
    sources = (ROOT / "client" / "gradwire" / "wire").glob("*.py")
    for source in sources:
        text = source.read_text(encoding="utf-8")
        assert "httpx" not in text
        assert "gradwire._" not in text


@pytest.mark.parametrize("found", ["none", "broken"])
def test_local_says_what_to_install(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    broken = metadata.EntryPoint("service", "no_such_module_here:transport", "gradwire.local")

    def entry_points(**_: Any) -> tuple[metadata.EntryPoint, ...]:
        return () if found == "none" else (broken,)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    with pytest.raises(ImportError, match=r'install "gradwire\[service\]"'):
        gw.local()
