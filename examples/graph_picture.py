"""Draws a session's graph: values as boxes, edges from operands to the results below them.

A layered drawing in three steps: a value's layer is the longest path to it (inputs sink to where
they are used), edges over several layers get a bend in each, and every layer is sorted by the mean
position of its neighbours, up and down in turn, so that few edges cross.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

__all__ = ["Box", "draw"]

COLOURS = {
    "input": "#fde9c9",
    "node": "#dbe7f6",
    "primal": "#dbe7f6",
    "tangent": "#d9efdc",
    "cotangent": "#f6d9dc",
}
SWEEPS = 12


@dataclass(frozen=True)
class Box:
    """One value to draw: its operands' ids, two lines of text, and what it is (see `COLOURS`)."""

    operands: Sequence[int]
    title: str
    detail: str
    kind: str = "node"


Point = tuple[int, int]  # an id and a layer: the value itself, or a bend of an edge from it


def draw(boxes: Mapping[int, Box], path: Path, title: str) -> None:
    """Write the picture; the suffix of `path` says in which format (.svg, .png).

    Args:
        boxes: By id; operands have smaller ids.
        path: Where to.
        title: Above the picture.
    """
    layer = _layers(boxes)
    rows, edges = _bend(boxes, layer)
    place = _sort(rows, edges)
    widest = max(len(row) for row in rows)
    figure = Figure(figsize=(max(5.0, 1.75 * widest), 0.95 * len(rows) + 0.6))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    for start, end in edges:
        (x0, y0), (x1, y1) = place[start], place[end]
        arrives = end[1] == layer[end[0]] and end[0] != start[0]
        y0 -= 0.21 if start[1] == layer[start[0]] else 0.0
        y1 += 0.21 if arrives else 0.0
        arrow = "-|>" if arrives else "-"
        style = {"arrowstyle": arrow, "color": "#7a8797", "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)
    for key, box in boxes.items():
        x, y = place[key, layer[key]]
        look = {"boxstyle": "round,pad=0.35", "fc": COLOURS[box.kind], "ec": "#8894a3", "lw": 0.8}
        text = f"{box.title}\n{box.detail}"
        axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox=look)
    xs, ys = zip(*place.values(), strict=True)
    axes.set_xlim(min(xs) - 0.7, max(xs) + 0.7)
    axes.set_ylim(min(ys) - 0.5, max(ys) + 0.9)
    axes.text(min(xs) - 0.6, max(ys) + 0.6, title, fontsize=11)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gradwire"}):
        figure.savefig(path, dpi=130, facecolor="white", metadata={"Date": None})


def _layers(boxes: Mapping[int, Box]) -> dict[int, int]:
    layer: dict[int, int] = {}
    users: dict[int, list[int]] = {key: [] for key in boxes}
    for key in sorted(boxes):
        operands = boxes[key].operands
        layer[key] = 1 + max((layer[o] for o in operands), default=-1)
        for operand in operands:
            users[operand].append(key)
    for key in sorted(boxes, reverse=True):  # what has no operands sits right above its first user
        if not boxes[key].operands and users[key]:
            layer[key] = min(layer[user] for user in users[key]) - 1
    return layer


def _bend(
    boxes: Mapping[int, Box], layer: Mapping[int, int]
) -> tuple[list[list[Point]], list[tuple[Point, Point]]]:
    """Rows of points from top to bottom, and edges between points of neighbouring rows."""
    points: dict[Point, None] = {(key, layer[key]): None for key in sorted(boxes)}
    edges: dict[tuple[Point, Point], None] = {}
    for key in sorted(boxes):
        for operand in boxes[key].operands:
            stops = [(operand, at) for at in range(layer[operand], layer[key])]
            path: list[Point] = [*stops, (key, layer[key])]
            points.update(dict.fromkeys(path))
            edges.update(dict.fromkeys(pairwise(path)))
    rows: list[list[Point]] = [[] for _ in range(max(layer.values()) + 1)]
    for point in points:
        rows[point[1]].append(point)
    return rows, list(edges)


def _sort(
    rows: Sequence[list[Point]], edges: Iterable[tuple[Point, Point]]
) -> dict[Point, tuple[float, float]]:
    """Where every point goes: x by its neighbours, y by its row."""
    near: dict[Point, list[Point]] = {point: [] for row in rows for point in row}
    for start, end in edges:
        near[start].append(end)
        near[end].append(start)
    x = {point: k - len(row) / 2 for row in rows for k, point in enumerate(row)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {p: sum(x[q] for q in near[p]) / max(len(near[p]), 1) for p in row}
            row.sort(key=lambda p: wish[p])
            x.update(_spread(row, wish))
    return {point: (x[point], -float(point[1])) for point in near}


def _spread(row: Sequence[Point], wish: Mapping[Point, float]) -> dict[Point, float]:
    """Positions in the order of the row, at least 1 apart, on the whole where they wish to be."""
    at: list[float] = []
    for point in row:
        at.append(max(wish[point], at[-1] + 1.0) if at else wish[point])
    shift = sum(wish[p] - a for p, a in zip(row, at, strict=True)) / max(len(row), 1)
    return {point: a + shift for point, a in zip(row, at, strict=True)}
