"""Who may ask: the owner behind a key or, without keys, nobody whom a web page may have sent.

A browser lets any page send requests to this machine. A server without keys therefore answers only
under names that no stranger can give to this machine (`Host`: a page that rebinds a name of its own
to a loopback address shows that name there), and only to pages of its own or of listed origins
(`Origin`). With keys neither matters: a page would have to know one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

from gradwire.wire.messages import IDEMPOTENCY_KEY, REQUEST_ID

from .errors import Forbidden, Unauthenticated
from .exchange import exchange_of
from .keys import LOCAL, KeyRing
from .settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .settings import Settings
    from .store import KeyRow

__all__ = ["PREFLIGHT", "Access", "with_cors"]

_PORTS: Final = {"http": "80", "https": "443"}
_AUTHORITY: Final = re.compile(
    r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
)
_REMEMBERED: Final = 64


class Access:
    """The rules of one server."""

    def __init__(self, settings: Settings, load: Callable[[], list[KeyRow]]) -> None:
        self._ring = KeyRing(load) if settings.needs_keys else None
        self._hosts = frozenset(host.lower() for host in settings.hosts)
        self._origins = frozenset(settings.cors_origins)
        self._accepted: set[bytes] = set()  # hosts that were looked at already
        # Whoever waives keys elsewhere means to be reached there; an address cannot be rebound.
        self._bound = None if is_loopback(settings.host) else settings.host.lower()

    def check_page(self, scope: Mapping[str, Any]) -> None:
        """Without keys, refuse what a foreign web page may have sent.

        Raises:
            Forbidden: `Host` or `Origin` is not of this server.
        """
        if self._ring is not None:
            return
        given = dict(scope["headers"])
        once = len(given) == len(scope["headers"])
        if once and given.get(b"host") in self._accepted and b"origin" not in given:
            return
        hosts: list[bytes] = []
        origins: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
        server = scope.get("server")
        if server is not None and server[1] is not None:  # else it came over no network
            self._check_host(hosts, server[0])
        for origin in map(_text, origins):
            if origin not in self._origins and not _same(origin, list(map(_text, hosts))):
                raise Forbidden(
                    header="Origin",
                    value=origin[:300],
                    reason="pages from there may not use this server; GRADWIRE_CORS_ORIGINS can "
                    "allow it",
                )

    def _check_host(self, given: Sequence[bytes], address: str) -> None:
        if len(given) == 1 and given[0] in self._accepted:
            return
        hosts = list(map(_text, given))
        parts = _AUTHORITY.fullmatch(hosts[0]) if len(hosts) == 1 else None
        name = parts["name"].strip("[]").lower() if parts else ""
        own = self._bound is not None and name in (address, self._bound)
        if not (own or is_loopback(name) or name in self._hosts):
            raise Forbidden(
                header="Host",
                value=", ".join(hosts)[:300],
                reason="without API keys the server answers under loopback names only, and those "
                "in GRADWIRE_HOSTS; list the name there, or have keys required (GRADWIRE_KEYS)",
            )
        if len(self._accepted) < _REMEMBERED:
            self._accepted.add(given[0])

    async def owner(self, scope: MutableMapping[str, Any]) -> str:
        """Whose resources a request is about.

        Raises:
            Unauthenticated: A key is needed, and there is none that is valid.
        """
        if self._ring is None:
            return LOCAL
        row = await self._ring.open(_key(scope))
        exchange_of(scope).key = row.id
        return row.owner

    def known_owner(self, scope: MutableMapping[str, Any]) -> str | None:
        """As `owner`, but at once: None where the store has to be asked.

        Raises:
            Unauthenticated: A key is needed, and what came is none, or not valid any more.
        """
        if self._ring is None:
            return LOCAL
        row = self._ring.recall(_key(scope))
        if row is None:
            return None
        exchange_of(scope).key = row.id
        return row.owner


PREFLIGHT: Final = "gradwire.preflight"
"""Where a scope has the answer to a browser that asks what a page may do, for the app to send."""


class _Cors(CORSMiddleware):
    """Starlette's, but for preflights: the app answers them, so that they are seen as all else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            if "origin" in headers and "access-control-request-method" in headers:
                scope[PREFLIGHT] = self.preflight_response(headers)
                await self.app(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def with_cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The app, usable by web pages of the origins that the settings name."""
    if not settings.cors_origins:
        return app
    return _Cors(
        app,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
        allow_headers=(
            *("Authorization", "Content-Type", "Content-Encoding", "If-Match", "If-None-Match"),
            *(IDEMPOTENCY_KEY, REQUEST_ID),
        ),
        expose_headers=(
            *("ETag", "Location", "Retry-After", "Server-Timing", "WWW-Authenticate"),
            *("Gradwire-Tier", REQUEST_ID),
        ),
    )


def _key(scope: Mapping[str, Any]) -> str:
    """The API key that came with a request, as it is."""
    given = [_text(value) for name, value in scope["headers"] if name == b"authorization"]
    if len(given) != 1:
        raise Unauthenticated(reason="send `Authorization: Bearer <key>`, once")
    scheme, _, key = given[0].partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated(reason="the scheme of Authorization is Bearer")
    return key.strip()


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip()


def _same(origin: str, hosts: Sequence[str]) -> bool:
    """Whether a page of an origin is one of this server, under the name that it is asked by."""
    scheme, found, authority = origin.partition("://")
    if not found or scheme not in _PORTS or len(hosts) != 1:
        return False
    page, server = _AUTHORITY.fullmatch(authority), _AUTHORITY.fullmatch(hosts[0])
    if page is None or server is None or page["name"].lower() != server["name"].lower():
        return False
    default = _PORTS[scheme]
    return (page["port"] or default) == (server["port"] or default)
