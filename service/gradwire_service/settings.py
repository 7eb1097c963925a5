"""Every knob of the service, with its default and what it does.

Values come from `GRADWIRE_*` environment variables or from `gradwire serve` flags, which win. The
descriptions here are the documentation: `docs/` lists them from this class.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["Settings", "is_loopback"]


def _split(value: Any) -> Any:
    """A list as one text, with commas, as environment variables have it."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*]+|null|\*")


class Settings(BaseSettings):
    """Settings of one service process."""

    model_config = SettingsConfigDict(env_prefix="GRADWIRE_", frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; loopback unless changed."
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    workers: int = Field(default=1, ge=1, description="Server processes that share the store.")
    data_dir: Path = Field(
        default=Path("~/.local/share/gradwire"),
        description="Directory of the SQLite store, of large arrays and of resident tensors; made "
        "if it is missing.",
    )
    store: str = Field(
        default="sqlite",
        pattern="^(sqlite|postgres(ql)?://.+)$",
        description="Where sessions are kept: `sqlite`, a file in the data directory, or "
        "`postgresql://user:password@host/database`, which needs the extra `postgres`.",
    )
    keys: Literal["auto", "required", "off"] = Field(
        default="auto",
        description="Whether requests need an API key: `required`, `off`, or `auto`, which is off "
        "on loopback and required elsewhere. `gradwire keys create` makes them.",
    )
    hosts: Texts = Field(
        default=(),
        description="Names, with commas, that a server without keys answers to beside loopback "
        "ones; another `Host` is refused: forbidden.",
    )
    cors_origins: Texts = Field(
        default=(),
        description="Origins, with commas, whose web pages may use the service, as "
        "`https://example.org`; `*` for any, which needs keys. Absent: none.",
    )
    max_body_bytes: int = Field(
        default=2**30,
        ge=1024,
        description="Largest request body, in bytes, before and after decompression; beyond it: "
        "payload_too_large.",
    )
    max_expansion: int = Field(
        default=100,
        ge=1,
        description="How many times as large as it is a compressed body may become, beyond the "
        "first MiB; beyond that: payload_too_large.",
    )
    body_memory_bytes: int | None = Field(
        default=None,
        ge=1024,
        description="Memory for all request bodies that a process holds at a time, in bytes; "
        "beyond it: overloaded. Absent: four times max_body_bytes.",
    )
    memory_bytes: int = Field(
        default=2**32,
        ge=1024,
        description="Memory that one run, or one value, may need by estimate, in bytes; beyond it: "
        "memory_limit.",
    )
    max_elements: int = Field(
        default=2**31,
        ge=1,
        description="Elements that one value of a graph may have; beyond it: quota_exceeded.",
    )
    session_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a session that nobody reads, runs or changes is removed. "
        "Absent: never.",
    )
    linearization_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="Seconds after which a linearization that nobody reads or runs is removed, and "
        "what was made of it.",
    )
    linearization_bytes: int = Field(
        default=2**33,
        ge=0,
        description="Bytes that the linearizations of one owner may keep, all together; beyond it: "
        "quota_exceeded.",
    )
    max_nodes: int = Field(default=100_000, ge=1, description="Nodes that one session may hold.")
    max_sessions: int = Field(default=10_000, ge=1, description="Sessions that one owner may hold.")
    max_tensors: int = Field(
        default=10_000,
        ge=1,
        description="Resident tensors that one owner may keep; beyond it: quota_exceeded.",
    )
    tensor_bytes: int = Field(
        default=2**34,
        ge=0,
        description="Bytes that the resident tensors of one owner may take, as files in the data "
        "directory; beyond it: quota_exceeded.",
    )
    store_bytes: int | None = Field(
        default=None,
        ge=2**16,
        description="Largest size of the SQLite file, in bytes; absent: the disk's.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="Runs at a time in one process; absent: one for each core."
    )
    compile: bool = Field(
        default=True,
        description="Whether plans are compiled in the background; if not, NumPy runs them all.",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="Directory of compiled kernels, which any number of processes may share. It "
        "must belong to the user who runs the server. Absent: `gradwire` in the user's cache "
        "directory.",
    )
    kernel_threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads that compiled runs of one process may use together; absent: one for "
        "each core, shared among the workers.",
    )
    queue: int = Field(
        default=64, ge=0, description="Runs that may wait for a thread; beyond it: overloaded."
    )
    runs_per_owner: int | None = Field(
        default=None,
        ge=1,
        description="Runs of one owner at a time in one process; further ones wait. Absent: no "
        "bound but threads.",
    )
    queue_per_owner: int | None = Field(
        default=None,
        ge=0,
        description="Runs of one owner that may wait in one process; beyond it: rate_limited. "
        "Absent: half of the queue where keys are required, else all of it.",
    )
    requests_per_second: float | None = Field(
        default=None,
        gt=0,
        description="Requests a second of one owner to one process, with twice as many at once; "
        "beyond it: rate_limited. Absent: 1000 where keys are required, else no bound.",
    )
    run_seconds: float | None = Field(
        default=600.0,
        gt=0,
        description="The longest that a run may take, waiting included, in seconds, whatever its "
        "deadline_ms; beyond it: deadline_exceeded.",
    )
    cached_sessions: int = Field(
        default=256,
        ge=1,
        description="Graphs that a process keeps in memory, most recently used first.",
    )
    idempotency_seconds: float = Field(
        default=86_400.0, gt=0, description="How long an Idempotency-Key is remembered, in seconds."
    )
    keep_alive_seconds: int = Field(
        default=75, ge=1, description="How long an idle connection stays open, in seconds."
    )
    connections: int = Field(
        default=1000,
        ge=1,
        description="Connections that a process holds open; beyond it: overloaded.",
    )
    header_bytes: int = Field(
        default=2**16,
        ge=1024,
        description="Largest path and headers of a request, in bytes; beyond it: "
        "headers_too_large.",
    )
    header_seconds: float = Field(
        default=10.0,
        gt=0,
        description="How long a client may take to send the headers of a request, in seconds; "
        "beyond it: request_timeout.",
    )
    body_seconds: float = Field(
        default=30.0,
        gt=0,
        description="In every so many seconds a client has to send the rest of a body, or 1,000 "
        "bytes for each of them, and to read as much of an answer; else: request_timeout.",
    )
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Seconds between SIGTERM and the closing of the port, while /readyz and new "
        "requests answer `draining`, so that a load balancer can turn away first.",
    )
    shutdown_seconds: int = Field(
        default=30,
        ge=1,
        description="How long a stopping server waits for requests under way, in seconds.",
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        default="warning",
        description="Least severe log level that is written: `info` has a line for each request, "
        "`warning` only for those answered with 5xx.",
    )
    log_format: Literal["json", "text"] | None = Field(
        default=None,
        description="Form of the log: `json`, an object a line, or `text`. Absent: text on a "
        "terminal, else json.",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for host in self.hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    "GRADWIRE_HOSTS has names, or addresses, as api.example.org: without scheme, "
                    f"port, brackets or *, so not {host!r}"
                )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "GRADWIRE_CORS_ORIGINS has origins as browsers send them, https://example.org "
                    "or http://localhost:3000: with a scheme and without a path, so not "
                    f"{origin!r}"
                )
        if "*" in self.cors_origins and not self.needs_keys:
            raise ValueError(
                "GRADWIRE_CORS_ORIGINS is *, and there are no keys: every web page could drive "
                "this server. Name the origins, or set GRADWIRE_KEYS=required"
            )
        return self

    @property
    def needs_keys(self) -> bool:
        """Whether every request has to come with an API key."""
        return self.keys == "required" or (self.keys == "auto" and not is_loopback(self.host))

    @property
    def owner_rate(self) -> float | None:
        """Requests a second that one owner may make; None: as many as it likes."""
        return self.requests_per_second or (1000.0 if self.needs_keys else None)

    @property
    def owner_queue(self) -> int:
        """Runs of one owner that may wait."""
        if self.queue_per_owner is not None:
            return self.queue_per_owner
        return (self.queue + 1) // 2 if self.needs_keys else self.queue

    @property
    def body_memory(self) -> int:
        """Bytes of request bodies that a process holds at a time."""
        return self.body_memory_bytes or 4 * self.max_body_bytes

    @property
    def run_threads(self) -> int:
        """The number of runs that one process executes at a time."""
        return self.threads or os.cpu_count() or 1

    @property
    def data_path(self) -> Path:
        """The data directory with `~` resolved."""
        return self.data_dir.expanduser()

    @property
    def cache_path(self) -> Path | None:
        """The directory of compiled kernels with `~` resolved; None: the engine's choice."""
        return None if self.cache_dir is None else self.cache_dir.expanduser()


def is_loopback(host: str) -> bool:
    """Whether only this machine is reached under a host: a loopback address or `localhost`."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
