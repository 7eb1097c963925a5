"""The routes, one module a noun: a handler parses, calls and encodes, on a worker thread."""

from __future__ import annotations

from starlette.routing import Route

from . import meta, ops, runs, sessions

__all__ = ["ROUTES"]

ROUTES: tuple[Route, ...] = (*sessions.ROUTES, *runs.ROUTES, *ops.ROUTES, *meta.ROUTES)
