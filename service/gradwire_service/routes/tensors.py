"""Resident tensors: put once, named in any run, read, listed and removed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gradwire_engine.errors import InvalidOption

from ..dispatch import resource
from ..http import Call, Reply, encode
from ..requests import one_tensor
from ..tensors import TensorRow, tensor_name
from .paging import cursor_of, page_after, page_limit

__all__ = ["ROUTES"]


def put(call: Call) -> Reply:
    """`PUT /v1/tensors/{name}`."""
    call.query()
    name = tensor_name(call.params["name"])
    array = one_tensor(call.value(), "", None, call.resident)
    replaced: list[int] = []

    def check(version: int) -> None:
        call.check_version(version)
        replaced.append(version)

    row = call.service.tensors.put(call.owner, {name: array}, check)[name]
    new = {} if replaced[-1] else {"Location": f"/v1/tensors/{name}"}
    return _about(row, 201 if new else 200, new)


def get(call: Call) -> Reply:
    """`GET /v1/tensors/{name}`: the tensor, or with `data=false` what there is to say of it."""
    with_data = _flag(call.query("data").get("data", "true"))
    tensors, name = call.service.tensors, call.params["name"]
    if not with_data:
        return _about(tensors.row(call.owner, name))
    row, array = tensors.get(call.owner, name)
    if call.unchanged(row.version):
        return Reply(304, headers={"Vary": "Accept", **_state(row)})
    return call.tensor(array, headers=_state(row))


def delete(call: Call) -> Reply:
    """`DELETE /v1/tensors/{name}`."""
    call.query()
    call.service.tensors.delete(call.owner, call.params["name"], call.check_version)
    return Reply(204)


def index(call: Call) -> Reply:
    """`GET /v1/tensors`."""
    query = call.query("limit", "cursor")
    limit = page_limit(query)
    rows = call.service.tensors.page(call.owner, page_after(query, _NAME), limit + 1)
    cursor = cursor_of(rows[limit - 1].name) if len(rows) > limit else None
    listed = [row.document() for row in rows[:limit]]
    return call.reply({"tensors": listed, "next_cursor": cursor}, headers=_FRESH)


ROUTES = (
    resource("/v1/tensors", get=index),
    resource("/v1/tensors/{name:path}", get=get, put=put, delete=delete),
)

_FRESH = {"Cache-Control": "no-store"}
_NAME = re.compile(r"[A-Za-z0-9_./:-]+")


def _about(row: TensorRow, status: int = 200, more: Mapping[str, str] | None = None) -> Reply:
    """What there is to say of a tensor: no tensor is in it, so it is JSON whatever came."""
    kind, chunks = encode(row.document(), "data")
    return Reply(status, kind, chunks, {**_state(row), **(more or {})})


def _state(row: TensorRow) -> dict[str, str]:
    return {**_FRESH, "ETag": f'"{row.version}"'}


def _flag(text: str) -> bool:
    if text in ("true", "false"):
        return text == "true"
    raise InvalidOption(path="data", value=text, reason="it is true or false")
