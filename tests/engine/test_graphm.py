"""docs/graphm.md names a counterpart for all that GraphM declares; here its lines are run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gradwire_engine import ops

PAGE = Path(__file__).parents[2] / "docs" / "graphm.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def sections() -> list[tuple[str, list[tuple[str, str]]]]:
    """Each section's setup code, and its table rows as (GraphM's names, code)."""
    found = []
    for part in PAGE.read_text().split("\n## ")[1:]:
        setup = BLOCK.search(part)
        assert setup is not None
        rows = [
            (cells[0], cells[-1].strip().strip("`"))
            for line in part.splitlines()
            if line.startswith("| `") and len(cells := line.strip("| ").split(" | ")) >= 2
        ]
        found.append((setup.group(1), rows))
    return found


def test_every_line_runs() -> None:
    count = 0
    for setup, rows in sections():
        namespace: dict[str, Any] = {}
        exec(setup, namespace)
        for _, code in rows:
            exec(code, namespace)
            count += 1
    assert count == 24 + 64


def test_every_graphm_op_is_on_the_page() -> None:
    named = {name.strip("`") for name, _ in sections()[1][1]}
    assert named == {op.graphm for op in ops.CATALOGUE.values() if op.graphm is not None}
    assert len(named) == 64


def test_op_lines_append_the_op_they_name() -> None:
    setup, rows = sections()[1]
    namespace: dict[str, Any] = {}
    exec(setup, namespace)
    for name, code in rows:
        assert eval(code, namespace).op.graphm == name.strip("`")
