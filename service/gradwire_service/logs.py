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
from contextlib import suppress
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
    "log_request",
]

Form = Literal["json", "text"]

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
            self._lines.append(self.format(record))
        except Exception:
            self.handleError(record)
            return
        try:
            loop = asyncio.get_running_loop() if record.levelno < logging.WARNING else None
        except RuntimeError:
            loop = None
        if loop is None:
            self.flush()
        elif len(self._lines) == 1:  # later ones find this one's flush on its way
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what there is; where stderr is gone there is nobody left to tell."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                with suppress(OSError, ValueError):
                    sys.stderr.write("\n".join(lines) + "\n")
                    sys.stderr.flush()
        finally:
            self.release()


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, its facts, and the trace."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            return orjson.dumps(line, default=str).decode("utf-8")
        except TypeError:  # text that UTF-8 cannot hold, or an integer beyond 64 bits
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A record as a line for people: time, level, message, facts; the trace below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        facts = getattr(record, "facts", {})
        told = "".join(f" {name}={value}" for name, value in facts.items())
        # A request's text may hold line breaks, which would let it write lines of its own.
        text = (record.getMessage() + told).replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_moment(record)} {record.levelname:<7} {text}"
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


_second: tuple[int, str] = (0, "")


def _moment(record: logging.LogRecord) -> str:
    """When a record was made: UTC, as RFC 3339 has it, in milliseconds."""
    global _second  # formatting a date takes longer than the rest of a line
    whole = int(record.created)
    known, text = _second
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second = whole, text
    return f"{text}.{int(record.msecs):03d}Z"


def log_request(exchange: Exchange, trace_id: str, probe: bool) -> None:
    """Write the line about a request that is done, and the trace of an internal fault.

    Args:
        exchange: The request.
        trace_id: The id of its trace, or nothing.
        probe: Whether it only asked how the server is.
    """
    status = exchange.status
    level = logging.ERROR if exchange.fault else _LEVELS[status >= 500]
    if probe and level == logging.INFO:
        level = logging.DEBUG
    if not _requests.isEnabledFor(level):
        return
    facts: dict[str, Any] = {
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
    if trace_id:
        facts["trace_id"] = trace_id
    fault = exchange.fault
    trace = None if fault is None else (type(fault), fault, fault.__traceback__)
    # Not `Logger.log`, which first looks for the line of code that logs: a third of the whole.
    extra = {"facts": facts}
    text = "request" if fault is None else f"internal fault in request {exchange.request_id}"
    line = _requests.makeRecord(_requests.name, level, "", 0, text, (), trace, extra=extra)
    _requests.handle(line)


_LEVELS: Final = (logging.INFO, logging.WARNING)
