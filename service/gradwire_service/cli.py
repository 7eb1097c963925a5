"""The `gradwire` command: `gradwire serve` starts the service, flags are the common settings.

`gradwire keys` is in `cli_keys`.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from . import cli_keys
from .errors import close_matches
from .tracing import import_opentelemetry, wants_tracing

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails
    from starlette.applications import Starlette

    from .settings import Settings

__all__ = ["main"]

_EXAMPLES = """\
examples:
  gradwire serve                          on http://127.0.0.1:8000
  gradwire serve --port 0                 on a free port, which is printed
  gradwire keys create alice              an API key, without which 0.0.0.0 is not served
  gradwire serve --host 0.0.0.0 --workers 4 --data-dir /srv/gradwire

Every flag is also an environment variable, such as GRADWIRE_PORT. Only there, among others
(docs/settings.md has them all, GET /v1/limits the limits in force):
  GRADWIRE_STORE=postgresql://...         sessions in PostgreSQL instead of SQLite
  GRADWIRE_KEYS=required                  API keys on loopback too; off: nowhere
  GRADWIRE_LOG_LEVEL=info                 a line on stderr for each request
  GRADWIRE_MEMORY_BYTES=1073741824        what one run may need
SIGTERM and Ctrl-C let the requests under way finish.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="gradwire",
        description="Differentiable tensor graphs as a service.",
        epilog="`gradwire serve --help` and `gradwire keys --help` have examples.",
    )
    parser.add_argument(
        "--version", action="version", version=f"gradwire {metadata.version('gradwire')}"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser(
        "serve",
        help="start the HTTP service",
        description="Start the HTTP service.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument(
        "--port", type=int, help="port to listen on, 0 for a free one (default 8000)"
    )
    serve.add_argument("--workers", type=int, help="server processes (default 1)")
    serve.add_argument(
        "--data-dir",
        type=Path,
        help="where everything is kept (default ~/.local/share/gradwire)",
    )
    cli_keys.add_parser(commands)
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help(sys.stderr)
        return 2
    options = {
        name: getattr(given, name)
        for name in ("host", "port", "workers", "data_dir")
        if getattr(given, name, None) is not None
    }
    try:
        settings = _settings(options)
        if given.command == "keys":
            return cli_keys.run(given, settings)
        return _serve(settings)
    except RuntimeError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("gradwire", "gradwire_engine"):
            raise
        needs, extra = "the service needs its extra", "service"
        if (error.name or "").startswith("psycopg"):
            needs, extra = "the PostgreSQL store needs its extra", "postgres"
        elif (error.name or "").startswith("opentelemetry"):
            needs, extra = "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, which need", "otel"
        return _fail(
            f"{error.name} is not installed, {needs}: "
            f'pip install "gradwire[{extra}]", or ".[{extra}]" in a clone.'
        )


def _settings(options: dict[str, object]) -> Settings:
    from pydantic import ValidationError

    from .settings import Settings

    try:
        settings = Settings(**options)  # type: ignore[arg-type] # validated here
    except ValidationError as error:
        faults = [_fault(e, options, Settings.model_fields) for e in error.errors()]
        raise RuntimeError("; ".join(faults)) from None
    for sentence in _strange_variables(Settings.model_fields):
        print(f"gradwire: {sentence}", file=sys.stderr)
    return settings


def _fault(fault: ErrorDetails, options: Collection[str], fields: Mapping[str, FieldInfo]) -> str:
    """What is wrong with a setting, by the name that it was given under, and what it is."""
    reason = fault["msg"].removeprefix("Value error, ").partition(", unable")[0]
    if not fault["loc"]:
        return reason  # it is about several, and a sentence of ours
    name = str(fault["loc"][0])
    given = f"--{name.replace('_', '-')}" if name in options else f"GRADWIRE_{name.upper()}"
    if fault["type"] == "string_pattern_mismatch":  # the store; a password may stand in it
        return f"{given} is not understood. {fields[name].description}"
    reason = reason.replace("Input should be", "it should be").replace("Input", "it", 1)
    return f"{given} cannot be {fault['input']!r}: {reason}. {fields[name].description}"


def _serve(settings: Settings) -> int:
    if wants_tracing():
        import_opentelemetry()  # a worker would have to find out for itself
    with _prepare(settings) as listener:
        _announce(settings, listener)
        _run(settings, listener)
    return 0


def _strange_variables(settings: Collection[str]) -> list[str]:
    """Sentences about environment variables that look like settings and do nothing."""
    known = {f"GRADWIRE_{name.upper()}" for name in settings}
    known |= {"GRADWIRE_API_KEY", "GRADWIRE_DEBUG"}
    told = []
    for name in sorted(os.environ):
        if name.upper().startswith("GRADWIRE_") and name.upper() not in known:
            close = close_matches(name.upper(), known)
            meant = f" Did you mean {close[0]}?" if close else ""
            told.append(f"{name} is set, but there is no such setting.{meant}")
    debug = os.environ.get("GRADWIRE_DEBUG", "source")
    if debug not in ("", "source"):
        told.append(f"GRADWIRE_DEBUG={debug} does nothing: it can be source, to show kernels.")
    return told


def _prepare(settings: Settings) -> socket.socket:
    """Check the store, making it where it is missing, and open the port."""
    _check_keys(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        place = f"{settings.host}:{settings.port}"
        hint = "; --port 0 takes a free one" if error.errno == errno.EADDRINUSE else ""
        raise RuntimeError(f"cannot listen on {place}: {error.strerror or error}{hint}") from None
    listener.set_inheritable(True)
    return listener


def _check_keys(settings: Settings) -> None:
    """Nobody is served by accident: where keys are needed there has to be one."""
    from .keys import is_valid
    from .settings import is_loopback
    from .store import now

    with cli_keys.opened(settings) as store:
        at = now()
        valid = sum(is_valid(key, at) for key in store.api_keys())
        if settings.needs_keys and not valid:
            raise RuntimeError(
                f"on {settings.host} every request needs an API key, and there is none yet. Make "
                "one with `gradwire keys create OWNER` for the same data directory, or set "
                "GRADWIRE_KEYS=off to serve everybody who can reach this address"
            )
    if valid and not settings.needs_keys:
        print(
            f"gradwire: the store has API keys ({valid} valid), but on {settings.host} none is "
            "asked for: a key that a request brings is not looked at. GRADWIRE_KEYS=required "
            "asks for them.",
            file=sys.stderr,
        )
    if not (settings.needs_keys or is_loopback(settings.host)):
        print(
            f"gradwire: GRADWIRE_KEYS=off: whoever reaches {settings.host} may use this server.",
            file=sys.stderr,
        )


def _announce(settings: Settings, listener: socket.socket) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    print(f"Gradwire {metadata.version('gradwire')} listens on {url}")
    print(f"Docs: {url}/docs")
    print(f"Data: {settings.data_path}", flush=True)


def worker() -> Starlette:
    """The app of a server process, settings from the environment.

    A large JSON body is millions of objects and no cycles: collections at Python's usual threshold
    would stop every thread while it is read. A process that only serves may collect less often.
    """
    from .app import create_app

    gc.set_threshold(100_000, 50, 100)
    return create_app()


_WORKER_SECONDS = 60
"""How long a worker may not react before it is killed and replaced: reading hundreds of megabytes
of JSON holds the interpreter for many seconds, and that is no reason."""


def _run(settings: Settings, listener: socket.socket) -> None:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from . import logs
    from .connection import Connection, Rules
    from .metrics import DIRECTORY

    # Worker processes read their settings from the environment.
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        text = ",".join(value) if isinstance(value, list) else str(value)
        os.environ[f"GRADWIRE_{name.upper()}"] = text
    config = uvicorn.Config(
        "gradwire_service.cli:worker",
        factory=True,
        workers=settings.workers,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=partial(Connection, rules=Rules.of(settings)),  # type: ignore[arg-type] # makes one
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=logs.configuration(logs.form_for(settings.log_format), settings.log_level),
        log_level=settings.log_level,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        timeout_worker_healthcheck=_WORKER_SECONDS,
    )
    # uvicorn raises the signal again once it is done; that is a clean end here, not a death.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    if settings.workers == 1:
        uvicorn.Server(config).run(sockets=[listener])
        return
    with tempfile.TemporaryDirectory(prefix="gradwire-metrics-") as shared:
        os.environ[DIRECTORY] = shared
        Multiprocess(config, sockets=[listener]).run()


def _fail(reason: str) -> int:
    print(f"gradwire: {reason}", file=sys.stderr)
    return 1
