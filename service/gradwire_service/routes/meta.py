"""The service about itself: limits, health, its documentation, and what its errors mean."""

from __future__ import annotations

import json
from importlib import resources

from gradwire.wire.messages import JSON, MAX_SOURCE
from gradwire_engine.builder import MAX_NAME
from gradwire_engine.ir import MAX_RANK

from ..catalogue import error_document, find_error
from ..dispatch import resource
from ..documents import MAX_INLINE
from ..errors import Draining
from ..http import Call, Reply
from ..metrics import CONTENT_TYPE
from ..openapi import openapi_document
from .paging import MAX_PAGE

__all__ = ["ROUTES"]


def limits(call: Call) -> Reply:
    """`GET /v1/limits`."""
    call.query()
    settings = call.service.settings
    return call.reply(
        {
            "body_bytes": settings.max_body_bytes,
            "body_expansion": settings.max_expansion,
            "memory_bytes": settings.memory_bytes,
            "elements_per_value": settings.max_elements,
            "nodes_per_session": settings.max_nodes,
            "sessions_per_owner": settings.max_sessions,
            "session_seconds": settings.session_seconds,
            "linearization_seconds": settings.linearization_seconds,
            "linearization_bytes_per_owner": settings.linearization_bytes,
            "tensors_per_owner": settings.max_tensors,
            "tensor_bytes_per_owner": settings.tensor_bytes,
            "runs_at_a_time": settings.run_threads,
            "runs_at_a_time_per_owner": settings.runs_per_owner,
            "runs_waiting": settings.queue,
            "runs_waiting_per_owner": settings.owner_queue,
            "run_seconds": settings.run_seconds,
            "requests_per_second_per_owner": settings.owner_rate,
            "header_bytes": settings.header_bytes,
            "idempotency_seconds": settings.idempotency_seconds,
            "sessions_per_page": MAX_PAGE,
            "inline_elements": MAX_INLINE,
            "name_characters": MAX_NAME,
            "source_characters": MAX_SOURCE,
            "rank": MAX_RANK,
        }
    )


def healthz(call: Call) -> Reply:
    """`GET /healthz`: the process answers."""
    del call
    return _state("ok")


def readyz(call: Call) -> Reply:
    """`GET /readyz`: the store can be read and the server is not on its way out."""
    if call.service.draining.is_set():
        raise Draining(reason="it is no longer ready")
    call.service.store.check()
    return _state("ready")


def metrics(call: Call) -> Reply:
    """`GET /metrics`: Prometheus text."""
    headers = {"Cache-Control": "no-store"}
    return Reply(200, CONTENT_TYPE, [call.service.sight.metrics.text(call.service)], headers)


def error(call: Call) -> Reply:
    """`GET /errors/{name}`: where the `type` of a problem leads."""
    call.query()
    return call.reply(error_document(find_error(call.params["name"])))


def home(call: Call) -> Reply:
    """`GET /`: somebody opened the address in a browser; show the documentation."""
    del call
    return Reply(307, headers={"Location": "/docs"})


def openapi(call: Call) -> Reply:
    """`GET /openapi.json`."""
    del call
    return Reply(200, JSON, [json.dumps(openapi_document()).encode("utf-8")])


def docs(call: Call) -> Reply:
    """`GET /docs`: a page of its own, which loads nothing but `/openapi.json`."""
    del call
    page = resources.files("gradwire_service").joinpath("docs.html").read_bytes()
    policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; " + (
        "script-src 'unsafe-inline'; img-src data:"
    )
    return Reply(200, "text/html; charset=utf-8", [page], {"Content-Security-Policy": policy})


def _state(word: str) -> Reply:
    body = json.dumps({"status": word}).encode("ascii")
    return Reply(200, JSON, [body], {"Cache-Control": "no-store"})


ROUTES = (
    resource("/", get=home, public=True),
    resource("/v1/limits", get=limits),
    resource("/healthz", get=healthz, vital=True, inline=True, public=True),
    resource("/readyz", get=readyz, vital=True, public=True),
    resource("/metrics", get=metrics, vital=True),
    resource("/errors/{name}", get=error, public=True),
    resource("/openapi.json", get=openapi, public=True),
    resource("/docs", get=docs, public=True),
)
