"""The routes, one module a noun: a handler parses, calls and encodes, on a worker thread."""

from __future__ import annotations

from starlette.routing import Route

from . import meta, ops, runs, sessions, tensors

__all__ = ["ROUTES"]

ROUTES: tuple[Route, ...] = (
    *sessions.ROUTES,
    *runs.ROUTES,
    *tensors.ROUTES,
    *ops.ROUTES,
    *meta.ROUTES,
)
