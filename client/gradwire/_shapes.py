"""The shapes and dtypes of results that can be told before the server has answered.

Inside a batch, and in an `AsyncSession`, operators and numbers need the shapes of the handles they
are applied to. For most ops a line here tells it, so that such code stays one request. Nothing is
checked: operands that do not fit are the server's to refuse, and its answer replaces what is told
here. An op without a rule is one whose shape is asked of the server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from gradwire._ops import SAME_TYPE

__all__ = ["FLOATS", "told_dtype", "told_shape"]

Shape: TypeAlias = tuple[int, ...]
Attrs: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = "Callable[[Sequence[Shape], Attrs], Shape]"

FLOATS: Final = ("float32", "float64")

_BOOL: Final = ("is_finite", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
_MOVES: Final = (
    "reshape",
    "broadcast_to",
    "flatten",
    "transpose",
    "expand_dims",
    "concat",
    "stack",
)


def told_shape(op: str, shapes: Sequence[Shape | None], attrs: Attrs) -> Shape | None:
    """The shape of a result, or None where it takes the server to tell.

    Args:
        op: The op's name.
        shapes: Of its operands, as far as known.
        attrs: Its attributes; those that are None are left out.
    """
    rule = _RULES.get(op)
    known = [shape for shape in shapes if shape is not None]
    if rule is None or len(known) < len(shapes):
        return None
    given = {name: value for name, value in attrs.items() if value is not None}
    try:
        return rule(known, given)
    except (IndexError, KeyError, TypeError, ValueError):
        return None  # the server says what is wrong


def told_dtype(op: str, dtypes: Sequence[str | None], attrs: Attrs) -> str | None:
    """The dtype of a result, or None where it takes the server to tell."""
    if op in _BOOL:
        return "bool"
    if op in ("argmax", "argmin"):
        return "int64"
    if op == "cast":
        return attrs.get("dtype")
    if op in SAME_TYPE or op in _MOVES:
        return dtypes[0] if dtypes else None
    return next((dtype for dtype in dtypes if dtype in FLOATS), None)


# -- rules -----------------------------------------------------------------------------------------


def _first(shapes: Sequence[Shape], _: Attrs) -> Shape:
    return shapes[0]


def _scalar(_: Sequence[Shape], __: Attrs) -> Shape:
    return ()


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise IndexError(axis)
    return axis % rank


def _per_axis(value: int | Sequence[int], rank: int) -> Sequence[int]:
    return [value] * rank if isinstance(value, int) else value


def _reduced(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    shape = shapes[0]
    axis = attrs.get("axis", range(len(shape)))
    gone = {_axis(a, len(shape)) for a in ([axis] if isinstance(axis, int) else axis)}
    if attrs.get("keepdims"):
        return tuple(1 if k in gone else size for k, size in enumerate(shape))
    return tuple(size for k, size in enumerate(shape) if k not in gone)


def _reshaped(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    sizes = [int(size) for size in attrs["shape"]]
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        if rest == 0:
            raise ValueError(sizes)
        sizes[sizes.index(-1)] = math.prod(shapes[0]) // rest
    return tuple(sizes)


def _expanded(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    at = _axis(attrs["axis"], len(shapes[0]) + 1)
    return (*shapes[0][:at], 1, *shapes[0][at:])


def _concatenated(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    at = _axis(attrs.get("axis", 0), len(shapes[0]))
    return (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :])


def _stacked(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    at = _axis(attrs.get("axis", 0), len(shapes[0]) + 1)
    return (*shapes[0][:at], len(shapes), *shapes[0][at:])


def _windowed(spatial: Shape, kernel: Shape, attrs: Attrs) -> Shape:
    rank = len(spatial)
    stride = _per_axis(attrs["stride"], rank)
    padding = _per_axis(attrs.get("padding", 0), rank)
    sizes = zip(spatial, kernel, stride, padding, strict=True)
    return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)


def _convolved(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    w, _, x = shapes
    return (w[0], *_windowed(x[1:], w[2:], {"stride": 1, **attrs}))


def _pooled(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    x = shapes[0]
    kernel = tuple(_per_axis(attrs["kernel"], len(x) - 1))
    return (x[0], *_windowed(x[1:], kernel, {"stride": kernel, **attrs}))


def _drawn(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    if any(shapes):
        raise ValueError("a seed per sample")
    return tuple(attrs["shape"])


def _permuted(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    perm: Sequence[int] = attrs["perm"]
    return tuple(shapes[0][axis] for axis in perm)


def _loss(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    return shapes[1] if attrs.get("reduction") == "none" else ()


_RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(SAME_TYPE, _first),
    **dict.fromkeys(_BOOL, _first),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not", "cast"), _first),
    **dict.fromkeys(("layer_norm", "batchnorm_channel_first", "cumsum", "flip"), _first),
    **dict.fromkeys(("scatter_add", "scatter_add_row", "scatter_add_vec"), _first),
    **dict.fromkeys(("sum", "mse_loss"), _scalar),
    **dict.fromkeys(("reduce_sum", "reduce_mean", "reduce_max", "reduce_min"), _reduced),
    **dict.fromkeys(("logsumexp", "argmax", "argmin"), _reduced),
    **dict.fromkeys(("max_pool", "max_pool2d", "max_pool2d_pad"), _pooled),
    **dict.fromkeys(("avg_pool", "avg_pool2d", "avg_pool2d_pad"), _pooled),
    **dict.fromkeys(("smooth_max_pool", "smooth_max_pool2d"), _pooled),
    **dict.fromkeys(("conv", "conv2d"), _convolved),
    **dict.fromkeys(("reshape", "broadcast_to"), _reshaped),
    **dict.fromkeys(("rand_uniform", "bernoulli_mask"), _drawn),
    "where": lambda shapes, _: shapes[1],
    "multi_head_attention": lambda shapes, _: shapes[4],
    "linear": lambda shapes, _: shapes[0][:1],
    "matmul": lambda shapes, _: (shapes[0][0], shapes[1][1]),
    "bmm": lambda shapes, _: (*shapes[0][:2], shapes[1][2]),
    "cross_entropy": _loss,
    "flatten": lambda shapes, _: (math.prod(shapes[0]),),
    "transpose": _permuted,
    "transpose2d": lambda shapes, _: shapes[0][::-1],
    "expand_dims": _expanded,
    "concat": _concatenated,
    "stack": _stacked,
    "take_along_axis": lambda shapes, _: shapes[1],
}
