"""Sessions and what is in them: create, list, read, append, declare outputs, derive, delete."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NoReturn
from urllib.parse import unquote

from gradwire_engine.errors import InvalidOption

from ..dispatch import resource
from ..http import Call, Reply
from ..requests import append_request, outputs_request, session_request, transform_request
from ..swift import Begun
from .paging import cursor_of, natural, page_after, page_limit

__all__ = ["ROUTES"]


def create(call: Call) -> Reply:
    """`POST /v1/sessions`."""
    wanted = session_request(call.document())
    session = call.service.sessions.create(call.owner, wanted, call.key)
    return call.reply(session, 201, _new(session))


def index(call: Call) -> Reply:
    """`GET /v1/sessions`."""
    query = call.query("limit", "cursor")
    after = page_after(query, _NUMBER)
    sessions, more = call.service.sessions.page(call.owner, int(after or 0), page_limit(query))
    cursor = None if more is None else cursor_of(str(more))
    return call.reply({"sessions": sessions, "next_cursor": cursor}, headers=_FRESH)


def read(call: Call) -> Reply:
    """`GET /v1/sessions/{sid}`."""
    since = natural(call.query("since"), "since", 0)
    session = call.service.sessions.read(call.owner, call.sid, since)
    return call.reply(session, headers=_state(session))


def delete(call: Call) -> Reply:
    """`DELETE /v1/sessions/{sid}`."""
    call.service.sessions.delete(call.owner, call.sid, call.if_match)
    return Reply(204)


def append(call: Call) -> Reply:
    """`POST /v1/sessions/{sid}/nodes`."""
    entries = append_request(call.document(), call.resident)
    sessions = call.service.sessions
    added = sessions.append(call.owner, call.sid, entries, call.if_match, call.key)
    return _appended(call, added)


def _appended(call: Call, added: Mapping[str, Any]) -> Reply:
    return call.reply(added, 201, _state(added))


def begin_append(call: Call) -> Begun | None:
    """Begin an `append` on the event loop, if it takes next to no time there."""
    try:
        entries = append_request(call.document(), _elsewhere)
    except _Elsewhere:
        return None
    sessions = call.service.sessions
    staged = sessions.stage(call.owner, call.sid, entries, call.if_match, call.key)
    if staged is None:
        return None
    return Begun(call, staged.committed, partial(_appended, call, staged.document))


class _Elsewhere(Exception):
    """A resident tensor is wanted, and to find one takes a look at the disk."""


def _elsewhere(names: Collection[str]) -> NoReturn:
    raise _Elsewhere(*names)


def declare(call: Call) -> Reply:
    """`PUT /v1/sessions/{sid}/outputs`."""
    outputs = outputs_request(call.document())
    declared = call.service.sessions.declare(call.owner, call.sid, outputs, call.if_match)
    return call.reply(declared, headers=_state(declared))


def transform(call: Call) -> Reply:
    """`POST /v1/sessions/{sid}/transforms`."""
    wanted = transform_request(call.document())
    sessions = call.service.sessions
    session = sessions.transform(
        call.owner, call.sid, wanted, call.resident, call.if_match, call.key
    )
    return call.reply(session, 201, _new(session))


def availability(call: Call) -> Reply:
    """`GET /v1/sessions/{sid}/jvp-availability`."""
    call.query()
    graph = call.service.sessions.graph(call.service.sessions.find(call.owner, call.sid))
    return call.reply(call.service.engine.jvp_availability(graph), headers=_FRESH)


def value(call: Call) -> Reply:
    """`GET /v1/sessions/{sid}/values/{ref}`, and its `/data`."""
    # A name may hold slashes, written as they are or as %2F; only a bare slash before `data` at the
    # end means the data route.
    rest = call.raw_path.split(b"/", 5)[5].decode("ascii", errors="replace")
    if rest.endswith("/data"):
        return data(call, unquote(rest.removesuffix("/data")))
    query = call.query("shape")
    shape = _shape(query["shape"]) if "shape" in query else None
    found = call.service.sessions.value(call.owner, call.sid, unquote(rest), shape)
    return call.reply(found, headers=_FRESH)


def data(call: Call, ref: str) -> Reply:
    """`GET /v1/sessions/{sid}/values/{ref}/data`."""
    attribute = call.query("attr").get("attr")
    array = call.service.sessions.array(call.owner, call.sid, ref, attribute)
    return call.tensor(array, headers=_FRESH)


ROUTES = (
    resource("/v1/sessions/{sid}/nodes", post=append, swift=begin_append),
    resource("/v1/sessions", get=index, post=create),
    resource("/v1/sessions/{sid}", get=read, delete=delete),
    resource("/v1/sessions/{sid}/outputs", put=declare),
    resource("/v1/sessions/{sid}/transforms", post=transform, heavy=True),
    resource("/v1/sessions/{sid}/jvp-availability", get=availability),
    resource("/v1/sessions/{sid}/values/{ref:path}", get=value),
)

_NUMBER = re.compile("[0-9]{1,18}")
_FRESH = {"Cache-Control": "no-store"}


def _state(document: Mapping[str, Any]) -> dict[str, str]:
    return {**_FRESH, "ETag": f'"{document["version"]}"'}


def _new(session: Mapping[str, Any]) -> dict[str, str]:
    return {**_state(session), "Location": f"/v1/sessions/{session['id']}"}


def _shape(text: str) -> tuple[int, ...]:
    """`2,3` as a shape; nothing at all is the shape of a scalar."""
    sizes = text.split(",") if text else []
    if len(sizes) > 32 or not all(s.isascii() and s.isdigit() and len(s) < 20 for s in sizes):
        reason = "a shape is sizes with commas between them, as in 2,3; empty for a scalar"
        raise InvalidOption(path="shape", value=text, reason=reason)
    return tuple(int(size) for size in sizes)
