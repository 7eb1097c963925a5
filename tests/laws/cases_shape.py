"""Law rows of the structural ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from .case import Case, Draw


def pad(
    x: Any, low: Sequence[int], high: Sequence[int], interior: Sequence[int], value: float = 0.0
) -> Any:
    """Spread out, then pad or crop, one axis after the other."""
    for axis, (before, after, between) in enumerate(zip(low, high, interior, strict=True)):
        size = x.shape[axis]
        spread_shape = list(x.shape)
        spread_shape[axis] = size + max(size - 1, 0) * between
        spread = torch.full(spread_shape, value, dtype=x.dtype)
        if size:
            places = torch.arange(size) * (between + 1)
            spread = spread.index_copy(axis, places, x)
        widths = [0, 0] * (x.ndim - 1 - axis) + [before, after]
        # Padding comes before cropping: a crop may reach beyond the elements into the padding.
        grown = functional.pad(spread, [max(w, 0) for w in widths], value=value)
        x = functional.pad(grown, [min(w, 0) for w in widths])
    return x


def _case(op: str, shape: tuple[int, ...], label: str, reference: Any, /, **attrs: Any) -> Case:
    return Case(op, (Draw(shape),), attrs, reference, label, integers=True)


def _pad(shape: tuple[int, ...], label: str, **attrs: Any) -> Case:
    rank = len(shape)
    each = {
        name: [v] * rank if isinstance(v, int) else v
        for name, v in attrs.items()
        if name != "value"
    }
    value = attrs.get("value", 0.0)

    def reference(x: Any) -> Any:
        return pad(x, each["low"], each["high"], each.get("interior", [0] * rank), value)

    return _case("pad", shape, label, reference, **attrs)


def _join(op: str, shapes: Sequence[tuple[int, ...]], axis: int, label: str) -> Case:
    join = torch.cat if op == "concat" else torch.stack
    return Case(
        op,
        tuple(map(Draw, shapes)),
        {"axis": axis},
        lambda *xs: join(xs, dim=axis),
        label,
        integers=True,
    )


def _slice(
    shape: tuple[int, ...],
    label: str,
    starts: Sequence[int],
    limits: Sequence[int],
    strides: int | Sequence[int] | None = None,
) -> Case:
    steps = [strides or 1] * len(shape) if isinstance(strides, int | None) else strides
    windows = tuple(slice(*w) for w in zip(starts, limits, steps, strict=True))
    attrs: dict[str, Any] = {"starts": list(starts), "limits": list(limits)}
    if strides is not None:
        attrs["strides"] = strides
    return _case("slice", shape, label, lambda x: x[(*windows, ...)], **attrs)


CASES: tuple[Case, ...] = (
    _case("broadcast_to", (3, 1), "right", lambda x: x.expand(2, 3, 4), shape=[2, 3, 4]),
    _case("broadcast_to", (), "scalar", lambda x: x.expand(2, 3), shape=[2, 3]),
    _case("broadcast_to", (2,), "left", lambda x: x[:, None].expand(2, 3), shape=[2, 3], axes=[0]),
    _case(
        "broadcast_to",
        (2, 1),
        "insert",
        lambda x: x[:, None, :].expand(2, 3, 4),
        shape=[2, 3, 4],
        axes=[0, 2],
    ),
    _case("broadcast_to", (2, 1), "to-empty", lambda x: x.expand(2, 0), shape=[2, 0]),
    _case("broadcast_to", (0, 3), "empty", lambda x: x.expand(2, 0, 3), shape=[2, 0, 3]),
    _case("broadcast_to", (2, 3), "same", lambda x: x, shape=[2, 3]),
    _case("reshape", (2, 3, 4), "plain", lambda x: x.reshape(6, 4), shape=[6, 4]),
    _case("reshape", (2, 3, 4), "inferred", lambda x: x.reshape(4, -1), shape=[4, -1]),
    _case("reshape", (1, 1), "to-scalar", lambda x: x.reshape(()), shape=[]),
    _case("reshape", (), "from-scalar", lambda x: x.reshape(1, 1), shape=[1, -1]),
    _case("reshape", (0, 3), "empty", lambda x: x.reshape(5, 0), shape=[5, 0]),
    _case("flatten", (2, 3), "matrix", lambda x: x.reshape(-1)),
    _case("flatten", (), "scalar", lambda x: x.reshape(1)),
    _case("flatten", (2, 0), "empty", lambda x: x.reshape(0)),
    _case("transpose", (2, 3, 4), "cycle", lambda x: x.permute(2, 0, 1), perm=[2, 0, 1]),
    _case("transpose", (2, 3, 4), "negative", lambda x: x.permute(1, 2, 0), perm=[1, -1, 0]),
    _case("transpose", (2, 1, 3, 2), "four", lambda x: x.permute(3, 1, 0, 2), perm=[3, 1, 0, 2]),
    _case("transpose", (), "scalar", lambda x: x, perm=[]),
    _case("transpose", (0, 3), "empty", lambda x: x.T, perm=[1, 0]),
    _case("transpose2d", (2, 3), "", lambda x: x.T),
    _case("transpose2d", (0, 3), "empty", lambda x: x.T),
    _case("transpose3d_first_to_last", (2, 3, 4), "", lambda x: x.permute(1, 2, 0)),
    _case("transpose3d_last_to_first", (2, 3, 4), "", lambda x: x.permute(2, 0, 1)),
    _case("transpose3d_last_two", (2, 3, 4), "", lambda x: x.permute(0, 2, 1)),
    _case("swap_adjacent_at_depth", (2, 3, 4), "0", lambda x: x.transpose(0, 1), depth=0),
    _case("swap_adjacent_at_depth", (2, 3, 4), "1", lambda x: x.transpose(1, 2), depth=1),
    _case("swap_adjacent_at_depth", (2, 3, 1, 2), "middle", lambda x: x.transpose(1, 2), depth=1),
    _case("squeeze", (1, 3, 1), "all", lambda x: x.squeeze()),
    _case("squeeze", (1, 3, 1), "one", lambda x: x.squeeze(0), axis=0),
    _case("squeeze", (1, 3, 1), "negative", lambda x: x.squeeze(2), axis=-1),
    _case("squeeze", (1, 3, 1), "list", lambda x: x.squeeze(), axis=[0, -1]),
    _case("squeeze", (1, 1), "to-scalar", lambda x: x.reshape(()), axis=[0, 1]),
    _case("expand_dims", (3,), "front", lambda x: x[None], axis=0),
    _case("expand_dims", (3,), "back", lambda x: x[:, None], axis=-1),
    _case("expand_dims", (2, 3), "list", lambda x: x[None, :, None, :], axis=[0, 2]),
    _case("expand_dims", (), "scalar", lambda x: x.reshape(1), axis=0),
    _slice((5,), "vector", [1], [4]),
    _slice((7,), "stride", [1], [7], [3]),
    _slice((8,), "stride-short", [1], [7], [3]),
    _slice((5, 6), "one-stride", [0, 1], [5, 6], 2),
    _slice((5, 6), "matrix", [2, 0], [5, 4], [1, 3]),
    _slice((4,), "nothing", [4], [4]),
    _slice((4, 3), "backwards", [3, 1], [1, 3]),
    _slice((), "scalar", [], []),
    _slice((0, 3), "empty", [0, 1], [0, 2]),
    _case("slice_range0", (5, 2), "", lambda x: x[1:4], start=1, len=3),
    _case("slice_range0", (4,), "vector", lambda x: x[2:4], start=2, len=2),
    _case("slice_range0", (4, 2), "none", lambda x: x[4:4], start=4, len=0),
    _pad((3,), "vector", low=[1], high=[2]),
    _pad((2, 3), "value", low=[0, 1], high=[2, 0], value=7),
    _pad((2, 3), "single", low=1, high=1, interior=1),
    _pad((4,), "interior", low=[1], high=[2], interior=[2], value=-3),
    _pad((4, 3), "crop", low=[-1, 0], high=[0, -2]),
    _pad((4,), "crop-spread", low=[-2], high=[-1], interior=[2]),
    _pad((5,), "crop-between", low=[-4], high=[-4], interior=[2], value=5),
    _pad((3, 2), "crop-and-grow", low=[-1, 2], high=[3, -1], interior=[1, 0]),
    _pad((1,), "crop-into-padding", low=[-2], high=[5], value=2),
    _pad((2,), "crop-into-front", low=[4], high=[-5], interior=[1]),
    _pad((3,), "crop-all", low=[-3], high=[0]),
    _pad((0, 2), "empty", low=[1, 1], high=[2, 0], interior=[3, 1], value=4),
    _pad((), "scalar", low=[], high=[]),
    _case("flip", (2, 3), "all", lambda x: x.flip(0, 1)),
    _case("flip", (2, 3), "one", lambda x: x.flip(1), axes=1),
    _case("flip", (2, 3, 2), "list", lambda x: x.flip(0, 2), axes=[-1, 0]),
    _case("flip", (2, 3), "none", lambda x: x, axes=[]),
    _case("flip", (0, 3), "empty", lambda x: x.flip(1), axes=[1]),
    _join("concat", [(2,), (3,)], 0, "vectors"),
    _join("concat", [(2, 3), (2, 1), (2, 2)], -1, "last"),
    _join("concat", [(2, 3), (1, 3)], 0, "first"),
    _join("concat", [(2, 3)], 1, "one"),
    _join("concat", [(2, 0), (2, 3)], 1, "empty"),
    _join("stack", [(2, 3), (2, 3)], 0, "front"),
    _join("stack", [(2, 3), (2, 3), (2, 3)], -1, "back"),
    _join("stack", [(), ()], 0, "scalars"),
    _join("stack", [(2, 3)], 1, "one"),
    Case(
        "concat_vectors",
        (Draw((2,)), Draw((3,))),
        reference=lambda a, b: torch.cat((a, b)),
        integers=True,
    ),
    Case(
        "concat_vectors",
        (Draw((0,)), Draw((3,))),
        reference=lambda a, b: torch.cat((a, b)),
        label="empty",
        integers=True,
    ),
    Case(
        "concat_dim0",
        (Draw((2, 2, 3)), Draw((1, 2, 3))),
        reference=lambda a, b: torch.cat((a, b)),
        integers=True,
    ),
)
