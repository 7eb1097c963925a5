"""Law rows of the reductions."""

from __future__ import annotations

from typing import Any

import torch

from .case import Case, Draw

_SHAPE = (2, 3, 4)
_AXES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("all", {}),
    ("first", {"axis": 0}),
    ("negative", {"axis": -2}),
    ("list", {"axis": [2, 0]}),
    ("none", {"axis": []}),
    ("keep-all", {"keepdims": True}),
    ("keep-one", {"axis": 1, "keepdims": True}),
    ("keep-list", {"axis": [-1, 0], "keepdims": True}),
)


def _axes(axis: Any, rank: int) -> list[int]:
    several = list(range(rank)) if axis is None else [axis] if isinstance(axis, int) else axis
    return sorted((a % rank for a in several), reverse=True)


def _fold(one: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """Reduce one axis after the other; each of these functions composes so."""
    for a in _axes(axis, x.ndim):
        x = one(x, a, keepdims)
    return x


_ONE: dict[str, Any] = {
    "reduce_sum": lambda x, a, keep: x.sum(dim=a, keepdim=keep),
    "reduce_mean": lambda x, a, keep: x.mean(dim=a, keepdim=keep),
    "reduce_max": lambda x, a, keep: x.amax(dim=a, keepdim=keep),
    "reduce_min": lambda x, a, keep: x.amin(dim=a, keepdim=keep),
    "logsumexp": lambda x, a, keep: torch.logsumexp(x, dim=a, keepdim=keep),
}


def _reduction(op: str, shape: tuple[int, ...], label: str, attrs: dict[str, Any]) -> Case:
    extreme = op in ("reduce_max", "reduce_min")
    axis, keepdims = attrs.get("axis"), attrs.get("keepdims", False)
    return Case(
        op,
        (Draw(shape, distinct=extreme),),
        attrs,
        lambda x: _fold(_ONE[op], x, axis, keepdims),
        label,
        integers=extreme or op == "reduce_sum",
    )


def _one(op: str, shape: tuple[int, ...], label: str, reference: Any, **attrs: Any) -> Case:
    draw = Draw(shape, distinct=op.startswith("arg"))
    return Case(op, (draw,), attrs, reference, label, integers=op != "mse_loss")


def _square_error(a: Any, b: Any) -> Any:
    return ((a - b) ** 2).mean()


CASES: tuple[Case, ...] = (
    *(
        _reduction(op, _SHAPE, label, attrs)
        for op in _ONE
        for label, attrs in _AXES
        if op != "logsumexp" or label != "none"
    ),
    *(_reduction(op, (), "scalar", {}) for op in _ONE if op != "logsumexp"),
    *(_reduction(op, (3, 1), "size-one", {"axis": 1}) for op in _ONE),
    *(_reduction(op, (0, 3), "empty-result", {"axis": 1}) for op in _ONE if op != "reduce_mean"),
    _reduction("reduce_mean", (0, 3), "empty-result", {"axis": -1}),
    _reduction("reduce_sum", (0, 3), "nothing", {"axis": 0}),
    _reduction("reduce_sum", (2, 0), "nothing-at-all", {}),
    Case("logsumexp", (Draw(()),), {}, lambda x: x, "scalar"),
    Case("logsumexp", (Draw(_SHAPE),), {"axis": []}, lambda x: x, "none"),
    Case(
        "logsumexp",
        (Draw((0, 3)),),
        {"axis": 0},
        lambda x: torch.full((3,), -torch.inf, dtype=x.dtype),
        "nothing",
        order=0,
    ),
    Case(
        "logsumexp",
        (Draw((2, 3), 990.0, 1010.0),),
        {"axis": 1},
        lambda x: torch.logsumexp(x, 1),
        "large",
    ),
    _one("sum", (2, 3), "", lambda x: x.sum()),
    _one("sum", (), "scalar", lambda x: x),
    _one("sum", (0,), "empty", lambda x: x.sum()),
    Case("mse_loss", (Draw((2, 3)), Draw((2, 3))), {}, _square_error),
    Case("mse_loss", (Draw(()), Draw(())), {}, _square_error, "scalar"),
    _one("cumsum", (5,), "vector", lambda x: x.cumsum(0), axis=0),
    _one("cumsum", (2, 3, 2), "middle", lambda x: x.cumsum(1), axis=-2),
    _one("cumsum", (2, 4), "reverse", lambda x: x.flip(1).cumsum(1).flip(1), axis=1, reverse=True),
    _one("cumsum", (0, 3), "empty", lambda x: x.cumsum(0), axis=0),
    _one("argmax", (2, 4), "last", lambda x: x.argmax(-1), axis=-1),
    _one("argmax", (3, 2, 2), "first", lambda x: x.argmax(0), axis=0),
    _one("argmin", (2, 4), "last", lambda x: x.argmin(1), axis=1),
    _one("argmin", (3, 2, 2), "middle", lambda x: x.argmin(1), axis=-2),
)
