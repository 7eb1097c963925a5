"""A real server for tests: `gradwire serve --port 0` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx


class Server:
    """A running `gradwire serve`; use as a context manager. Port 0 is a free one."""

    def __init__(self, data_dir: Path, *, port: int = 0, **settings: object) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADWIRE_")}
        environment["GRADWIRE_COMPILE"] = "false"
        environment.update({f"GRADWIRE_{k.upper()}": str(v) for k, v in settings.items()})
        environment["PYTHONWARNINGS"] = "error"
        self._log = (data_dir.parent / f"{data_dir.name}.log").open("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gradwire_service"),
                *("serve", "--port", str(port), "--data-dir", str(data_dir)),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.greeting = self._greeting()
        match = re.search(r"listens on (\S+)", self.greeting)
        assert match, f"no address in {self.greeting!r}; {self.log()}"
        self.url = match[1]
        self.http = httpx.Client(base_url=self.url, timeout=60.0)
        self._wait()

    def _greeting(self) -> str:
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Data:"):
                break
        return "".join(lines)

    def _wait(self) -> None:
        for _ in range(300):
            try:
                if self.http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.log()
            time.sleep(0.1)
        raise AssertionError(f"the server did not become ready: {self.log()}")

    def log(self) -> str:
        """What the server wrote to stderr."""
        return Path(self._log.name).read_text()

    def workers(self) -> list[int]:
        """The processes that answer requests, where there are several."""
        pid = self.process.pid
        found = []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(FileNotFoundError):  # it has just ended
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._close()
        return status

    def kill(self) -> None:
        """SIGKILL: no chance to write anything more."""
        self.http.close()
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def problem(answer: httpx.Response, code: str | None = None) -> dict[str, Any]:
    """The problem that an answer holds, checked for the form that every one of them has."""
    from gradwire.wire.errors import STATUS

    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == (code or body["code"]), body
    assert body["status"] == answer.status_code == STATUS[body["code"]], body
    assert body["type"] == "/errors/" + body["code"].replace("_", "-")
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    if answer.status_code == 400:
        assert isinstance(body["path"], str)
        assert body["reason"]
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) > 0
    return body


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A document less some of its members."""
    return {name: value for name, value in document.items() if name not in names}
