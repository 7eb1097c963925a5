"""Logs: one JSON object a line, or one line of text, for the service and its server alike.

A line about a request is written when the request is done; every line that belongs to one carries
its id. Facts travel in `extra={"facts": {...}}`, so that each form can place them. Requests are
logged at `info`, answers of 5xx at `warning`, internal faults at `error` with their trace, probes
(`vital` resources) at `debug`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

if TYPE_CHECKING:
    from .exchange import Exchange

__all__ = [
    "Form",
    "JsonFormatter",
    "Lines",
    "TextFormatter",
    "configuration",
    "form_for",
    "lines_alone",
    "log_request",
]

Form = Literal["json", "text"]
Facts = dict[str, Any]

_requests = logging.getLogger("gradwire.requests")


def form_for(chosen: Form | None) -> Form:
    """The chosen form, or the one for whoever reads stderr: text for people, else JSON."""
    return chosen or ("text" if sys.stderr.isatty() else "json")


def configuration(form: Form, level: str) -> dict[str, Any]:
    """What `logging.config.dictConfig` takes: everything to stderr, in one form."""
    formatter = {"json": JsonFormatter, "text": TextFormatter}[form]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"{formatter.__module__}.{formatter.__name__}"}},
        "handlers": {"stderr": {"class": f"{__name__}.{Lines.__name__}", "formatter": "line"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
    }


class Lines(logging.Handler):
    """Writes lines to stderr, those of one turn of the event loop together.

    A write is a system call that gives up the interpreter's lock: one for each request took an
    eighth of the time of small ones. What is serious, or is said off the loop, is written at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record, and have it written soon."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self.take(line, record.levelno)

    def take(self, line: str, level: int) -> None:
        """Take a line, and have it written soon; the handler's lock is held."""
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop() if level < logging.WARNING else None
        except RuntimeError:
            loop = None
        if loop is None:
            self.flush()
        elif len(self._lines) == 1:  # later ones find this one's flush on its way
            loop.call_soon(self.flush)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the handler's lock, for any number of lines."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def flush(self) -> None:
        """Write what there is; where stderr is gone there is nobody left to tell."""
        with self.held():
            lines, self._lines = self._lines, []
            if lines:
                with suppress(OSError, ValueError):
                    sys.stderr.write("\n".join(lines) + "\n")
                    sys.stderr.flush()


class _Formatter(logging.Formatter):
    """Makes a line of a record, or of what would be in one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        trace = record.exc_info and "".join(traceback.format_exception(*record.exc_info))
        facts: Facts = getattr(record, "facts", {})
        return self.line(
            record.created, record.levelno, record.name, record.getMessage(), facts, trace or None
        )

    def line(
        self, at: float, level: int, logger: str, message: str, facts: Facts, trace: str | None
    ) -> str:
        """The same of the facts alone; `at` is in seconds since the epoch."""
        raise NotImplementedError


class JsonFormatter(_Formatter):
    """A record as one JSON object: time, level, logger, message, its facts, and the trace."""

    def line(
        self, at: float, level: int, logger: str, message: str, facts: Facts, trace: str | None
    ) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _moment(int(at * 1000)),
            "level": _level_name(level).lower(),
            "logger": logger,
            "message": message,
            **facts,
        }
        if trace is not None:
            line["trace"] = trace
        try:
            return orjson.dumps(line, default=str).decode("utf-8")
        except TypeError:  # text that UTF-8 cannot hold, or an integer beyond 64 bits
            return json.dumps(line, default=str)


class TextFormatter(_Formatter):
    """A record as a line for people: time, level, message, facts; the trace below it."""

    def line(
        self, at: float, level: int, _logger: str, message: str, facts: Facts, trace: str | None
    ) -> str:
        """The line, without its end."""
        told = "".join(f" {name}={value}" for name, value in facts.items())
        # A request's text may hold line breaks, which would let it write lines of its own.
        text = (message + told).replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_moment(int(at * 1000))} {_level_name(level):<7} {text}"
        return line if trace is None else f"{line}\n{trace.rstrip()}"


@lru_cache(maxsize=16)
def _level_name(level: int) -> str:
    return logging.getLevelName(level)


@lru_cache(maxsize=4)
def _moment(at: int) -> str:
    """A moment in milliseconds since the epoch: UTC, as RFC 3339 has it."""
    # Formatting a date takes longer than the rest of a line, and lines come together.
    second, rest = divmod(at, 1000)
    return f"{_to_the_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=4)
def _to_the_second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def log_request(lines: Lines | None, exchange: Exchange) -> None:
    """Write the line about a request that is done, and the trace of an internal fault.

    `lines` is what `lines_alone` has found; if that is a handler, it is `held`.
    """
    status = exchange.status
    level = logging.ERROR if exchange.fault else _LEVELS[status >= 500]
    if exchange.probe and level == logging.INFO:
        level = logging.DEBUG
    if not _requests.isEnabledFor(level):
        return
    facts: Facts = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "route": exchange.route,
        "status": status,
        "duration_ms": round(exchange.seconds * 1e3, 3),
        "bytes_in": exchange.received,
        "bytes_out": exchange.sent,
    }
    if exchange.key:
        facts["key"] = exchange.key
    if exchange.tier:
        facts["tier"] = exchange.tier
    if exchange.code:
        facts["code"] = exchange.code
    if exchange.trace_id:
        facts["trace_id"] = exchange.trace_id
    fault = exchange.fault
    if fault is None and lines is not None:
        formatter: Any = lines.formatter  # one of this module's
        line = formatter.line(time.time(), level, _requests.name, "request", facts, None)
        lines.take(line, level)
        return
    trace = None if fault is None else (type(fault), fault, fault.__traceback__)
    # Not `Logger.log`, which first looks for the line of code that logs: a third of the whole.
    extra = {"facts": facts}
    text = "request" if fault is None else f"internal fault in request {exchange.request_id}"
    record = _requests.makeRecord(_requests.name, level, "", 0, text, (), trace, extra=extra)
    _requests.handle(record)


def lines_alone() -> Lines | None:
    """Our own handler, where a record about a request would come to it alone, and as it is.

    Then there need be no record, which takes longer than the line that is made of it. Whoever
    embeds the app, or watches it, may have handlers, filters or records of their own.
    """
    handlers: list[logging.Handler] = []
    logger: logging.Logger | None = _requests
    while logger is not None:
        handlers += logger.handlers
        logger = logger.parent if logger.propagate else None
    lines = handlers[0] if len(handlers) == 1 else None
    if not isinstance(lines, Lines):
        return None
    altered = _requests.filters or lines.filters or lines.level
    if altered or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    return lines if type(lines.formatter) in (JsonFormatter, TextFormatter) else None


_LEVELS: Final = (logging.INFO, logging.WARNING)
