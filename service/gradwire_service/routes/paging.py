"""Lists page by page: `limit` and `cursor` in a query, and the cursor of the page that follows."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from gradwire_engine.errors import InvalidOption

__all__ = ["MAX_PAGE", "cursor_of", "natural", "page_after", "page_limit"]

MAX_PAGE = 1000
"""The most entries that one page of a list may hold."""


def natural(
    query: Mapping[str, str], name: str, default: int, *, low: int = 0, high: int = 2**62
) -> int:
    """A whole number of a query.

    Raises:
        InvalidOption: It is none, or out of bounds.
    """
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high):
        bound = f"from {low} to {high}" if high < 2**62 else f"of at least {low}"
        raise InvalidOption(path=name, value=text, reason=f"it is an integer {bound}")
    return int(text)


def page_limit(query: Mapping[str, str]) -> int:
    """How many entries a page is to hold."""
    return natural(query, "limit", 100, low=1, high=MAX_PAGE)


def cursor_of(last: str) -> str:
    """What the next page begins behind, for the caller to give back."""
    return base64.urlsafe_b64encode(last.encode()).decode("ascii")


def page_after(query: Mapping[str, str], form: re.Pattern[str]) -> str:
    """What a page begins behind, of that form; nothing for the first page.

    Raises:
        InvalidOption: It is not what an answer said.
    """
    cursor = query.get("cursor")
    if cursor is None:
        return ""
    try:
        text = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if not form.fullmatch(text):
        reason = "a cursor is the next_cursor of an earlier answer"
        raise InvalidOption(path="cursor", value=cursor, reason=reason)
    return text
