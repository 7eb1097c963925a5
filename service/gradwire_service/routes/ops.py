"""The op catalogue, readable over HTTP."""

from __future__ import annotations

from ..catalogue import catalogue_document, find_op, op_document
from ..dispatch import resource
from ..http import Call, Reply

__all__ = ["ROUTES"]


def index(call: Call) -> Reply:
    """`GET /v1/ops`."""
    call.query()
    return call.reply(catalogue_document())


def one(call: Call) -> Reply:
    """`GET /v1/ops/{name}`."""
    call.query()
    return call.reply(op_document(find_op(call.params["name"])))


ROUTES = (resource("/v1/ops", get=index), resource("/v1/ops/{name}", get=one))
