"""HTTP as the rest of the service sees it: a `Call` in, a `Reply` out, both plain data.

Forms are decided here: JSON or safetensors in, and out what `Accept` asks for, by default the same.
How requests become calls, and on which threads handlers run, is the business of `dispatch`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import orjson

from gradwire.wire import json as wire_json
from gradwire.wire import safetensors
from gradwire.wire.messages import BINARY, JSON
from gradwire.wire.tensors import tensor_document
from gradwire_engine.errors import InvalidOption

from .errors import MalformedBody, VersionConflict

if TYPE_CHECKING:
    from .app import Service
    from .exchange import Exchange, Stopwatch
    from .requests import Resident
    from .stop import Stop

__all__ = [
    "Body",
    "Call",
    "IfMatch",
    "Key",
    "Reply",
    "Send",
    "encode",
    "media_type",
    "prefers_binary",
]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Form = Literal["data", "base64", "binary"]
Array = np.ndarray[Any, Any]
Body = bytes | bytearray | memoryview


# -- answers ---------------------------------------------------------------------------------------


_PROMPT = 2**16
"""An answer of more bytes has an empty end: it is sent when the client has read what came before,
and until then the answer counts as under way."""


class Reply(NamedTuple):
    """A finished answer; `chunks` are sent one after the other and may be views of arrays."""

    status: int = 200
    media_type: str | None = None
    chunks: Sequence[bytes | memoryview] = ()
    headers: Mapping[str, str] = MappingProxyType({})

    def head(self, length: int) -> list[tuple[bytes, bytes]]:
        """The headers, as ASGI has them, of a body of so many bytes."""
        headers = [(_field(name), text.encode("latin-1")) for name, text in self.headers.items()]
        if self.media_type is not None:
            headers.append((b"content-type", self.media_type.encode()))
        if self.status not in (204, 304):
            headers.append((b"content-length", b"%d" % length))
        return headers

    async def send(self, send: Send) -> None:
        """Send it as one HTTP response."""
        length = sum(map(len, self.chunks))
        headers = self.head(length)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        last = b""
        if length > _PROMPT:
            for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            last = b"".join(self.chunks)
        await send({"type": "http.response.body", "body": last, "more_body": False})


@lru_cache(maxsize=64)  # all are ours, and few
def _field(name: str) -> bytes:
    """The name of a header, as ASGI has it."""
    return name.lower().encode()


def encode(document: object, form: Form) -> tuple[str, list[bytes | memoryview]]:
    """A document whose tensors are arrays, in a form: its media type and the chunks of the body."""
    if form == "binary":
        tensors: dict[str, Array] = {}
        rest = _without_tensors(document, "", tensors)
        return BINARY, safetensors.pack(tensors, rest, "response")

    return JSON, [orjson.dumps(document, default=_IN_JSON[form])]


def _in_json(form: Literal["data", "base64"], value: object) -> object:
    """What stands in JSON for a value that JSON does not have."""
    if isinstance(value, np.ndarray):
        return tensor_document(value, form)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} in an answer")


_IN_JSON: Mapping[Form, Callable[[object], object]] = {
    "data": partial(_in_json, "data"),
    "base64": partial(_in_json, "base64"),
}


def _without_tensors(document: object, path: str, tensors: dict[str, Array]) -> object:
    """The document less its arrays, which go into `tensors` under their paths."""
    prefix = f"{path}/" if path else ""
    if isinstance(document, dict):
        kept = {}
        for name, item in document.items():
            if isinstance(item, np.ndarray):
                tensors[prefix + name] = item
                continue
            rest = _without_tensors(item, prefix + name, tensors)
            # A whole group of tensors (`outputs`) is told by their paths; one that is empty stays.
            if path or rest != {} or item == {}:
                kept[name] = rest
        return kept
    if isinstance(document, list):
        return [_without_tensors(item, f"{prefix}{k}", tensors) for k, item in enumerate(document)]
    return document


# -- requests --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IfMatch:
    """A precondition on a session's version; `versions` is None for `*`."""

    text: str
    versions: frozenset[int] | None

    def check(self, version: int) -> None:
        """Raise `VersionConflict` unless the session is at a version that was asked for."""
        if self.versions is not None and version not in self.versions:
            raise self.conflict(version)

    def conflict(self, version: int) -> VersionConflict:
        """The refusal of what is at that version; 0: nothing is there."""
        if self.versions is not None and len(self.versions) == 1:
            return VersionConflict(expected=next(iter(self.versions)), actual=version)
        reason = None
        if self.versions is not None and not self.versions:
            reason = 'If-Match names a version by its ETag, as in "3"'
        return VersionConflict(expected=self.text[:200], actual=version, reason=reason)


@dataclass(frozen=True)
class Key:
    """An idempotency key and the digest of the body that came with it."""

    text: str
    digest: str


class Call(NamedTuple):
    """One request, complete, for a handler on a worker thread.

    A tuple, as `Reply` is: both are made for each request, and a frozen dataclass takes several
    times as long to make.
    """

    service: Service
    owner: str
    scope: MutableMapping[str, Any]
    headers: Mapping[str, str]
    body: Body
    exchange: Exchange

    @property
    def watch(self) -> Stopwatch:
        """Takes the time of the steps of a run."""
        assert self.exchange.watch is not None  # it was made when the call went to a thread
        return self.exchange.watch

    @property
    def stop(self) -> Stop:
        """When to end early."""
        assert self.exchange.stop is not None  # as above
        return self.exchange.stop

    @property
    def path(self) -> str:
        """The path, with what was escaped in it as it is meant."""
        path: str = self.scope["path"]
        return path

    @property
    def raw_path(self) -> bytes:
        """The path as it came."""
        raw: bytes | None = self.scope.get("raw_path")
        return raw or self.path.encode()

    @property
    def params(self) -> Mapping[str, str]:
        """What stands in the places of the path's template."""
        found: Mapping[str, str] = self.scope["path_params"]
        return found

    @property
    def query_string(self) -> bytes:
        """What stands behind the path's question mark."""
        text: bytes = self.scope.get("query_string", b"")
        return text

    @property
    def sid(self) -> str:
        """The session that the path names, by id or name."""
        sid: str = self.scope["path_params"]["sid"]
        return sid

    @property
    def binary(self) -> bool:
        """Whether the body is safetensors."""
        given = self.headers.get("content-type", JSON)
        return given != JSON and media_type(given) == BINARY

    def document(self) -> object:
        """The body as one document; the tensors of a binary body stand in it as arrays.

        Raises:
            WireError, MalformedBody: It is not what its media type says.
        """
        if not self.binary:
            return wire_json.loads(self.body)
        tensors, document = safetensors.unpack(self.body, "request")
        return _with_tensors({} if document is None else document, tensors)

    def value(self) -> object:
        """The body as one tensor: its JSON form, or the array that a file holds as `value`.

        Raises:
            WireError, MalformedBody: It is not what its media type says.
        """
        if not self.binary:
            return wire_json.loads(self.body)
        tensors, document = safetensors.unpack(self.body, "request")
        if document or list(tensors) != ["value"]:
            reason = "the file should hold one tensor, named value, and nothing else"
            raise MalformedBody(path="", reason=reason)
        return tensors["value"]

    def query(self, *known: str) -> dict[str, str]:
        """The query parameters; any but the known ones, or one given twice, is refused."""
        found: dict[str, str] = {}
        for name, value in parse_qsl(
            self.query_string.decode("latin-1"), keep_blank_values=True, errors="replace"
        ):
            if name not in known:
                reason = f"the parameters here are {', '.join(known)}"
                if not known:
                    reason = "no parameters belong here"
                raise InvalidOption(path=name[:200] or "?", value=value, reason=reason)
            if name in found:
                raise InvalidOption(path=name, value=value, reason="it is given twice")
            found[name] = value
        return found

    @property
    def if_match(self) -> IfMatch | None:
        """The `If-Match` header; one that no version can satisfy has no versions."""
        text = self.headers.get("if-match")
        if text is None:
            return None
        return IfMatch(text, _versions(text))

    def unchanged(self, version: int) -> bool:
        """Whether the caller has said, by `If-None-Match`, that it has this version already."""
        text = self.headers.get("if-none-match")
        versions = None if text is None else _versions(text, weak=True)
        return text is not None and (versions is None or version in versions)

    def check_version(self, version: int) -> None:
        """Hold what is to be written to `If-Match` and `If-None-Match`; 0: nothing is there yet.

        Raises:
            VersionConflict: They ask for something else.
        """
        if self.if_match is not None:
            if not version:
                raise self.if_match.conflict(0)
            self.if_match.check(version)
        if version and self.unchanged(version):
            raise VersionConflict(expected=0, actual=version)

    @property
    def resident(self) -> Resident:
        """Finds resident tensors of the caller's."""
        return partial(self.service.tensors.load, self.owner)

    @property
    def key(self) -> Key | None:
        """The `Idempotency-Key` header with the digest of the body."""
        text = self.headers.get("idempotency-key")
        if text is None:
            return None
        if not re.fullmatch(r"[\x21-\x7e]{1,255}", text):
            raise InvalidOption(
                path="Idempotency-Key",
                value=text[:300],
                reason="a key is 1 to 255 visible ASCII characters",
            )
        return Key(text, hashlib.sha256(self.body).hexdigest())

    def reply(
        self,
        document: object,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        base64: bool = False,
    ) -> Reply:
        """The answer that holds a document, in the form that the caller prefers."""
        form: Form = "base64" if base64 else "data"
        if prefers_binary(self.headers.get("accept"), default=self.binary):
            form = "binary"
        media_type, chunks = encode(document, form)
        return Reply(status, media_type, chunks, {"Vary": "Accept", **(headers or {})})

    def tensor(self, array: Array, headers: Mapping[str, str]) -> Reply:
        """The answer that is one tensor: its JSON form, or a file whose only tensor is `value`."""
        if prefers_binary(self.headers.get("accept"), default=False):
            chunks = safetensors.pack({"value": array}, None, "response")
            return Reply(200, BINARY, chunks, {"Vary": "Accept", **headers})
        media_type, chunks = encode(array, "data")
        return Reply(200, media_type, chunks, {"Vary": "Accept", **headers})

    def results(
        self,
        results: Mapping[str, Array],
        groups: Sequence[str],
        stored: Mapping[str, Mapping[str, Any]],
        base64: bool,
        headers: Mapping[str, str],
    ) -> Reply:
        """The answer to a run: its results by path (`outputs/y`), and how long each step took.

        Results that became resident tensors are told apart, by path under `stored`.
        """
        document: dict[str, dict[str, Any]] = {group: {} for group in groups}
        for path, array in results.items():
            group, _, name = path.partition("/")
            document[group][name] = array
        if stored:
            document["stored"] = dict(stored)
        with self.watch.step("encode"):
            reply = self.reply(document, headers=headers, base64=base64)
        return reply._replace(headers={**reply.headers, "Server-Timing": self.watch.header()})


def _versions(text: str, *, weak: bool = False) -> frozenset[int] | None:
    """The versions that a list of entity tags names, if need be weakly; None for `*`."""
    tags = [tag.strip() for tag in text.split(",")]
    if tags == ["*"]:
        return None
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
    plain = [re.fullmatch(r'"([0-9]{1,18})"|([0-9]{1,18})', tag) for tag in tags]
    return frozenset(int(m[1] or m[2]) for m in plain if m)


def media_type(header: str) -> str:
    """The media type of a header, without its parameters."""
    return header.partition(";")[0].strip().lower()


@lru_cache(maxsize=64)  # a client sends the same one each time
def prefers_binary(accept: str | None, *, default: bool) -> bool:
    """Whether `Accept` prefers safetensors to JSON; a tie, or neither, leaves the default."""
    if not accept:
        return default
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind = media_type(part)
        weight = re.search(r";\s*q\s*=\s*([0-9.]+)", part)
        try:
            weights[kind] = float(weight[1]) if weight else 1.0
        except ValueError:
            weights[kind] = 1.0
    rest = weights.get("application/*", weights.get("*/*", 0.0))
    binary, plain = weights.get(BINARY, rest), weights.get(JSON, rest)
    return default if binary == plain else binary > plain


_PLACES = (
    re.compile(r"(?P<group>(?:run/)?(?:inputs|cotangents|tangents))/(?P<name>.+)", re.DOTALL),
    re.compile(r"(?P<group>(?:run/)?transforms/[0-9]{1,4}/inputs)/(?P<name>.+)", re.DOTALL),
    re.compile(r"(?P<group>nodes/[0-9]{1,9}/attrs)/(?P<name>.+)", re.DOTALL),
)


def _with_tensors(document: object, tensors: Mapping[str, Array]) -> object:
    """Put each tensor of a binary body where its path says."""
    if not isinstance(document, dict):
        raise MalformedBody(path="", reason="the metadata `request` must hold a JSON object")
    for path, array in tensors.items():
        match = next((m for place in _PLACES if (m := place.fullmatch(path))), None)
        if match is None:
            raise MalformedBody(path=path[:300], reason="no tensor belongs here")
        here: Any = document
        for step in match["group"].split("/"):
            here = _descend(here, step, path)
        if not isinstance(here, dict):
            raise MalformedBody(path=path[:300], reason="no tensor belongs here")
        if match["name"] in here:
            raise MalformedBody(path=path[:300], reason="it is given in the metadata too")
        here[match["name"]] = array
    return document


def _descend(here: Any, step: str, path: str) -> Any:
    """The member of a document that a step of a path names; objects are made as needed."""
    if isinstance(here, dict):
        if here.get(step) is None:
            here[step] = {}
        return here[step]
    if isinstance(here, list) and step.isdigit() and int(step) < len(here):
        return here[int(step)]
    raise MalformedBody(path=path[:300], reason=f"there is no {step!r} in the metadata")
