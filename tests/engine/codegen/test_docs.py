"""The page on the compiled tier shows what the code does."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "compiled.md"


def test_the_page_shows_what_is_printed() -> None:
    blocks = re.findall(r"```(?:python|text)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    program, *shown = blocks
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, {})
    assert lines(printed.getvalue()) == lines("\n".join(shown))


def lines(text: str) -> list[str]:
    """The lines that hold anything."""
    return [line for line in text.splitlines() if line.strip()]
