"""All rows of the law tests, collected from the tables `cases_<family>.py` beside this file."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .case import Case


def _collect() -> Iterator[Case]:
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if module.startswith("cases_"):
            yield from importlib.import_module(f"{__package__}.{module}").CASES


ROWS: tuple[Case, ...] = tuple(_collect())
"""Every row, family by family."""


def row_ids() -> list[str]:
    """One distinct id a row: the case's own, numbered where several rows share it."""
    total, seen = Counter(case.id for case in ROWS), Counter[str]()
    ids = []
    for case in ROWS:
        seen[case.id] += 1
        ids.append(f"{case.id}-{seen[case.id]}" if total[case.id] > 1 else case.id)
    return ids
