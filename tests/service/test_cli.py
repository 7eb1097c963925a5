"""The `gradwire` command: what it says, where it listens, how it ends."""

from __future__ import annotations

import builtins
import signal
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest

from gradwire_service.cli import main
from tests.service.serving import Server


def test_it_says_where_it_listens_and_ends_cleanly(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert f"Docs: {server.url}/docs" in server.greeting
        assert str(tmp_path / "data") in server.greeting
        assert httpx.get(f"{server.url}/docs").status_code == 200
        assert server.stop() == 0


def test_an_interrupt_is_a_clean_end_too(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"gradwire {metadata.version('gradwire')}\n"


def test_help_shows_examples_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert "gradwire serve --port 0" in text
    for flag in ("--host", "--port", "--workers", "--data-dir"):
        assert flag in text
    assert text.count("(default") == 4


def test_a_taken_port_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port, "--data-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"gradwire: cannot listen on 127.0.0.1:{port}")
    assert "--port 0" in error
    assert error.count("\n") == 1


def test_an_unusable_data_dir_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["serve", "--port", "0", "--data-dir", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("gradwire: the data directory cannot be used")


def test_a_bad_setting_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADWIRE_QUEUE", "many")
    assert main(["serve", "--port", "70000"]) == 1
    error = capsys.readouterr().err
    assert "--port cannot be 70000: it should be less than or equal to 65535. Port to" in error
    assert "GRADWIRE_QUEUE cannot be 'many': it should be a valid integer. Runs that" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LOG_LEVEL", "verbose", "'critical', 'error', 'warning', 'info' or 'debug'. Least severe"),
        ("STORE", "mysql://me:secret@host/x", "GRADWIRE_STORE is not understood. Where sessions"),
        ("HOSTS", "api.example.org,*", "without scheme, port, brackets or *, so not '*'"),
        ("HOSTS", "https://api.example.org", "as api.example.org: without scheme"),
        ("CORS_ORIGINS", "https://example.org/", "without a path, so not 'https://example.org/'"),
        ("CORS_ORIGINS", "example.org", "with a scheme"),
        ("CORS_ORIGINS", "*", "every web page could drive this server"),
    ],
)
def test_what_a_setting_may_be(
    variable: str,
    value: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"GRADWIRE_{variable}", value)
    assert main(["serve", "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "secret" not in error
    assert error.count("\n") == 1


def test_a_missing_extra_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_pydantic(name: str, *arguments: Any) -> Any:
        if name == "pydantic":
            raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")
        return imported(name, *arguments)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_pydantic)
    assert main(["serve"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gradwire: pydantic is not installed")
    assert 'pip install "gradwire[service]"' in error
    assert error.count("\n") == 1


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "serve" in capsys.readouterr().err


def test_a_misspelt_variable_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADWIRE_QUEU", "3")
    monkeypatch.setenv("GRADWIRE_DEBUG", "sorce")
    (tmp_path / "file").write_text("")
    assert main(["serve", "--port", "0", "--data-dir", str(tmp_path / "file")]) == 1
    told = capsys.readouterr().err
    assert (
        "GRADWIRE_QUEU is set, but there is no such setting. Did you mean GRADWIRE_QUEUE?" in told
    )
    assert "GRADWIRE_DEBUG=sorce does nothing: it can be source" in told
