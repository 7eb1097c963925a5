"""Figures that have something to meet: printed as they come, and kept for a machine and a page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One figure; `wanted` says what is wanted of it, if anything, and `met` whether it is so."""

    what: str
    value: float
    unit: str
    wanted: str
    met: bool | None


@dataclass
class Figures:
    """What was measured, with what is wanted of it where something is."""

    rows: list[Figure] = field(default_factory=list)

    def add(
        self, what: str, value: float, unit: str, *, least: float = 0.0, most: float = 0.0
    ) -> None:
        """Note and print a figure; `least` or `most` is what is wanted."""
        wanted = f">= {least:g}" if least else f"<= {most:g}" if most else ""
        met = value >= least if least else value <= most if most else None
        self.rows.append(Figure(what, value, unit, wanted, met))
        verdict = {None: "", True: "met", False: "MISSED"}[met]
        print(f"{what:64} {value:10.4g} {unit:6} {wanted:9} {verdict}", flush=True)

    @property
    def missed(self) -> bool:
        """Whether anything that is wanted was missed."""
        return any(row.met is False for row in self.rows)

    def write(self, file: Path) -> None:
        """All of them as JSON."""
        file.write_text(json.dumps([asdict(row) for row in self.rows], indent=1) + "\n")

    def table(self) -> str:
        """All of them in Markdown."""
        head = ["| figure | value | wanted |", "|---|---:|---|"]
        rows = [f"| {r.what} | {r.value:.3g} {r.unit} | {r.wanted} |" for r in self.rows]
        return "\n".join(head + rows)
