"""Every knob of the service, with its default and what it does.

Values come from `GRADWIRE_*` environment variables or from `gradwire serve` flags, which win. The
descriptions here are the documentation: `docs/` lists them from this class.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Settings of one service process."""

    model_config = SettingsConfigDict(env_prefix="GRADWIRE_", frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; loopback unless changed."
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    workers: int = Field(
        default=1, ge=1, description="Server processes that share the data directory."
    )
    data_dir: Path = Field(
        default=Path("~/.local/share/gradwire"),
        description="Directory of the session store and its blobs; made if it is missing.",
    )
    max_body_bytes: int = Field(
        default=2**30,
        ge=1024,
        description="Largest request body, in bytes; beyond it: payload_too_large.",
    )
    memory_bytes: int = Field(
        default=2**32,
        ge=1024,
        description="Memory that one run, or one value, may need by estimate, in bytes; beyond it: "
        "memory_limit.",
    )
    max_nodes: int = Field(default=100_000, ge=1, description="Nodes that one session may hold.")
    max_sessions: int = Field(default=10_000, ge=1, description="Sessions that one owner may hold.")
    store_bytes: int | None = Field(
        default=None,
        ge=2**16,
        description="Largest size of the session database; absent: the disk's.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="Runs at a time in one process; absent: one for each core."
    )
    queue: int = Field(
        default=64, ge=0, description="Runs that may wait for a thread; beyond it: overloaded."
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
    log_level: str = Field(
        default="warning",
        pattern="^(critical|error|warning|info|debug)$",
        description="Least severe log level that is written.",
    )

    @property
    def run_threads(self) -> int:
        """The number of runs that one process executes at a time."""
        return self.threads or os.cpu_count() or 1

    @property
    def data_path(self) -> Path:
        """The data directory with `~` resolved."""
        return self.data_dir.expanduser()
