"""Rows for activations, softmaxes, norms, attention and the classification loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from .case import Case, Draw

Tensor = torch.Tensor


def _channel_norm(eps: float) -> Callable[..., Tensor]:
    def reference(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        centred = x - x.mean((1, 2), keepdim=True)
        spread = torch.sqrt(centred.square().mean((1, 2), keepdim=True) + eps)
        return centred / spread * gamma[:, None, None] + beta[:, None, None]

    return reference


def _layer_norm(eps: float) -> Callable[..., Tensor]:
    def reference(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return F.layer_norm(x, gamma.shape, gamma, beta, eps)

    return reference


def _attention(heads: int, fixed: np.ndarray | None = None) -> Callable[..., Tensor]:
    def reference(
        wq: Tensor, wk: Tensor, wv: Tensor, wo: Tensor, x: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        n = x.shape[0]
        depth = wq.shape[1] // heads
        if fixed is not None:
            mask = torch.from_numpy(fixed)
        q, k, v = ((x @ w).reshape(n, heads, depth).transpose(0, 1) for w in (wq, wk, wv))
        scores = q @ k.transpose(1, 2) / math.sqrt(depth)
        if mask is None:
            weights = torch.softmax(scores, -1)
        else:
            # A very small number instead of -inf keeps PyTorch's blocked rows free of NaN.
            weights = torch.softmax(scores.masked_fill(~mask, -1e30), -1) * mask
        return (weights @ v).transpose(0, 1).reshape(n, heads * depth) @ wo

    return reference


def _attention_operands(n: int, width: int, inner: int) -> tuple[Draw, ...]:
    weight = Draw((width, inner), -1.0, 1.0)
    return (weight, weight, weight, Draw((inner, width), -1.0, 1.0), Draw((n, width), -1.0, 1.0))


def _cross_entropy(reduction: str) -> Callable[..., Tensor]:
    def reference(logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[-1]
        known = (labels >= 0) & (labels < classes)
        logp = torch.log_softmax(logits, -1)
        picked = torch.gather(logp, -1, torch.where(known, labels, 0)[..., None])[..., 0]
        losses = torch.where(known, -picked, 0.0)
        if reduction == "none":
            return losses
        return losses.sum() if reduction == "sum" else losses.mean()

    return reference


CAUSAL = np.tril(np.ones((3, 3), bool))
ONE_BLOCKED = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
NORM = (Draw((3, 4)), Draw((4,)), Draw((4,)))
CHANNELS = (Draw((2, 3, 2)), Draw((2,)), Draw((2,)))

ACTIVATIONS = (
    Case("leaky_relu", (Draw((2, 3), kinks=(0.0,)),), reference=F.leaky_relu),
    Case(
        "leaky_relu",
        (Draw((5,), kinks=(0.0,)),),
        {"slope": -0.5},
        reference=lambda x: F.leaky_relu(x, -0.5),
        label="slope",
    ),
    Case("leaky_relu", (Draw((), -2.0, -0.1),), reference=F.leaky_relu, label="scalar"),
    Case("elu", (Draw((2, 3), kinks=(0.0,)),), reference=F.elu),
    Case(
        "elu",
        (Draw((5,), kinks=(0.0,)),),
        {"alpha": 1.7},
        reference=lambda x: F.elu(x, 1.7),
        label="alpha",
    ),
    Case("silu", (Draw((2, 3)),), reference=F.silu),
    Case("silu", (Draw(()),), reference=F.silu, label="scalar"),
    Case("silu", (Draw((0,)),), reference=F.silu, label="empty"),
    Case("gelu", (Draw((2, 3), -3.0, 3.0),), reference=F.gelu),
    Case("gelu", (Draw(()),), reference=F.gelu, label="scalar"),
    Case(
        "gelu",
        (Draw((2, 3), -3.0, 3.0),),
        {"approximate": True},
        reference=lambda x: F.gelu(x, approximate="tanh"),
        label="tanh",
    ),
)

SOFTMAX = tuple(
    Case(op, (Draw(shape, low, high),), reference=reference, label=label)
    for op, reference in (
        ("softmax", lambda x: torch.softmax(x, -1) if x.ndim else torch.ones_like(x)),
        ("log_softmax", lambda x: torch.log_softmax(x, -1) if x.ndim else torch.zeros_like(x)),
    )
    for shape, low, high, label in (
        ((4,), -2.0, 2.0, ""),
        ((2, 3), -2.0, 2.0, "matrix"),
        ((2, 2, 3), 90.0, 95.0, "large"),
        ((), -2.0, 2.0, "scalar"),
        ((3, 1), -2.0, 2.0, "single"),
        ((2, 0), -2.0, 2.0, "empty"),
        ((0, 2), -2.0, 2.0, "no-rows"),
    )
)

NORMS = (
    Case("layer_norm", NORM, reference=_layer_norm(1e-6)),
    Case("layer_norm", NORM, {"eps": 0.1}, reference=_layer_norm(0.1), label="eps"),
    Case("layer_norm", (Draw((4,)), *NORM[1:]), reference=_layer_norm(1e-6), label="vector"),
    Case("layer_norm", (Draw((2, 2, 4)), *NORM[1:]), reference=_layer_norm(1e-6), label="leading"),
    Case(
        "layer_norm",
        (Draw((2, 0)), Draw((0,)), Draw((0,))),
        reference=lambda x, gamma, beta: x * 1.0,
        label="empty",
    ),
    Case(
        "layer_norm",
        (Draw((2, 1)), Draw((1,)), Draw((1,))),
        {"eps": 0.3},
        reference=_layer_norm(0.3),
        label="single",
    ),
    Case("batchnorm_channel_first", CHANNELS, reference=_channel_norm(1e-6)),
    Case(
        "batchnorm_channel_first", CHANNELS, {"eps": 0.1}, reference=_channel_norm(0.1), label="eps"
    ),
    Case(
        "batchnorm_channel_first",
        (Draw((3, 1, 1)), Draw((3,)), Draw((3,))),
        {"eps": 0.3},
        reference=_channel_norm(0.3),
        label="one-cell",
    ),
    Case(
        "batchnorm_channel_first",
        (Draw((2, 0, 3)), Draw((2,)), Draw((2,))),
        reference=lambda x, gamma, beta: x * 1.0,
        label="empty",
    ),
)

ATTENTION = (
    Case(
        "multi_head_attention",
        _attention_operands(3, 2, 4),
        {"num_heads": 2},
        reference=_attention(2),
    ),
    Case(
        "multi_head_attention",
        _attention_operands(3, 2, 3),
        {"num_heads": 1},
        reference=_attention(1),
        label="one-head",
    ),
    Case(
        "multi_head_attention",
        (*_attention_operands(3, 2, 4), Draw((3, 3), dtype="bool")),
        {"num_heads": 2},
        reference=_attention(2),
        label="mask",
    ),
    Case(
        "multi_head_attention",
        _attention_operands(3, 2, 4),
        {"num_heads": 2, "mask": CAUSAL},
        reference=_attention(2, CAUSAL),
        label="causal",
    ),
    Case(
        "multi_head_attention",
        _attention_operands(3, 2, 2),
        {"num_heads": 2, "mask": ONE_BLOCKED},
        reference=_attention(2, ONE_BLOCKED),
        label="blocked",
    ),
    Case(
        "multi_head_attention",
        _attention_operands(0, 2, 2),
        {"num_heads": 2},
        reference=lambda wq, wk, wv, wo, x: x * 1.0,
        label="no-rows",
    ),
    Case(
        "multi_head_attention",
        _attention_operands(2, 3, 0),
        {"num_heads": 2},
        reference=lambda wq, wk, wv, wo, x: wq.sum() + (x @ wq) @ wo,
        label="no-depth",
    ),
)

LOSSES = (
    *(
        Case(
            "cross_entropy",
            (Draw(shape), Draw(shape[:-1], 0, shape[-1] - 1, dtype="int64")),
            {"reduction": reduction},
            reference=_cross_entropy(reduction),
            label=f"{label}-{reduction}",
        )
        for reduction in ("mean", "sum", "none")
        for shape, label in (((4, 3), "batch"), ((5,), "one"), ((2, 2, 3), "grid"))
    ),
    Case(
        "cross_entropy",
        (Draw((6, 3)), Draw((6,), -2, 4, dtype="int64")),
        reference=_cross_entropy("mean"),
        label="out-of-range",
    ),
    Case(
        "cross_entropy",
        (Draw((0, 3)), Draw((0,), 0, 2, dtype="int64")),
        {"reduction": "none"},
        reference=_cross_entropy("none"),
        label="empty",
    ),
)

CASES: tuple[Case, ...] = (*ACTIVATIONS, *SOFTMAX, *NORMS, *ATTENTION, *LOSSES)
