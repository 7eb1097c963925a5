"""Neural-network ops: activations, normalised exponentials, norms and the classification loss.

All but `softmax` and `log_softmax` are composites: they state what they compute from other ops and
get every derivative from those. Those two state their derivatives in terms of their results, so
that nothing else has to be kept for the way back. Exponentials are shifted by their largest
argument, and guards replace the operand, never the result, so that neither values nor derivatives
overflow.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np

from ..ir import Type, Value
from . import checks
from .attributes import Bool, Real, Word
from .base import Array, Composite, Op
from .elementwise import (
    Scale,
    detach,
    erfc,
    exp,
    expm1,
    rsqrt,
    sigmoid,
    square,
)
from .logic import equal, select
from .reduce import ReduceMax, ReduceMean, ReduceSum, np_sum
from .shape import BroadcastTo
from .sources import Iota, ones_like, zeros_like

Reduce = Annotated[str, Word(choices=("mean", "sum", "none"))]


# -- activations -----------------------------------------------------------------------------------


class Activation(Composite):
    """Base of float activations of one operand."""

    def typing(self, x: Type) -> Type:
        checks.floats(self, x=x)
        for name, attribute in self.attributes.items():
            if attribute.kind.annotation == "float":
                checks.scalar(self, name, x.dtype)
        return x


class LeakyRelu(Activation, inputs=("x",)):
    """``x`` where positive, else ``slope * x``; the derivative at 0 is ``slope``."""

    slope: Real = 0.01

    def expand(self, x: Value) -> Value:
        return select(x > 0.0, x, Scale(self.slope)(x))


class Elu(Activation, inputs=("x",)):
    """``x`` where positive, else ``alpha * (e^x - 1)``; the derivative at 0 is ``alpha``."""

    alpha: Real = 1.0

    def expand(self, x: Value) -> Value:
        positive = x > 0.0
        # Where x is large e^x would be infinite, so the branch not taken sees 0 instead.
        below = expm1(select(positive, zeros_like(x), x))
        return select(positive, x, Scale(self.alpha)(below))


class Silu(Activation, inputs=("x",)):
    """``x * sigmoid(x)``, also called swish."""

    def expand(self, x: Value) -> Value:
        return x * sigmoid(x)


class Gelu(Activation, inputs=("x",)):
    """``x`` times the normal distribution function of ``x``, relatively accurate in both tails.

    With ``approximate`` the distribution function is replaced by its tanh form,
    (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.
    """

    approximate: Bool = False

    def expand(self, x: Value) -> Value:
        if not self.approximate:
            return Scale(0.5)(x) * erfc(Scale(-math.sqrt(0.5))(x))
        # (1 + tanh u) / 2 = sigmoid(2u), which does not cancel where tanh u is close to -1.
        twice = x * (Scale(0.044715)(square(x)) + 1.0)
        return x * sigmoid(Scale(2 * math.sqrt(2 / math.pi))(twice))


# -- normalised exponentials -----------------------------------------------------------------------


class Softmax(Op, inputs=("x",), graphm="softmax"):
    """Exponentials of ``x`` divided by their sum along the last axis; a scalar gives 1.

    A slice of nothing but -inf gives NaN.
    """

    def typing(self, x: Type) -> Type:
        checks.floats(self, x=x)
        return x

    def numpy(self, x: Array) -> Array:
        if x.ndim == 0:
            return np.ones_like(x)
        if x.shape[-1] == 0:
            return x
        e = x - np.max(x, axis=-1, keepdims=True)
        np.exp(e, out=e)
        result: Array = np.divide(e, np_sum(e, (x.ndim - 1,), True), out=e)
        return result

    def jvp_x(self, dx: Value, y: Value, x: Value) -> Value:
        if x.rank == 0:
            return zeros_like(dx)
        return y * (dx - ReduceSum(-1, keepdims=True)(y * dx))

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        return ones_like(x) if x.rank == 1 else self(x)


softmax = Softmax()


def masked_softmax(scores: Value, mask: Value | None) -> Value:
    """`Softmax` over the entries where `mask` holds; the others get 0, as does a row without any.

    Args:
        scores: Floats of at least one axis.
        mask: Bools of the shape of `scores`; None where every entry takes part.
    """
    if mask is None or scores.shape[-1] == 0:
        return softmax(scores)
    nothing = BroadcastTo(scores.shape)(_number(scores, -math.inf))
    scores = select(mask, scores, nothing)
    top = detach(ReduceMax(-1, keepdims=True)(scores))
    # In a blocked row all is -inf: shifting by 0 and dividing by 1 gives zeros, derivatives too.
    blocked = equal(top, BroadcastTo(top.shape)(_number(top, -math.inf)))
    e = exp(scores - select(blocked, zeros_like(top), top))
    total = ReduceSum(-1, keepdims=True)(e)
    return e / select(blocked, ones_like(total), total)


class LogSoftmax(Op, inputs=("x",), graphm="logSoftmax"):
    """x - log(sum(e^x)) along the last axis, evaluated without overflow; a scalar gives 0."""

    def typing(self, x: Type) -> Type:
        checks.floats(self, x=x)
        return x

    def numpy(self, x: Array) -> Array:
        if x.ndim == 0:
            return np.zeros_like(x)
        if x.shape[-1] == 0:
            return x
        shifted = x - np.max(x, axis=-1, keepdims=True)
        total = np_sum(np.exp(shifted), (x.ndim - 1,), True)
        result: Array = np.subtract(shifted, np.log(total), out=shifted)
        return result

    def workspace(self, x: Type) -> int:
        return x.nbytes

    def jvp_x(self, dx: Value, y: Value, x: Value) -> Value:
        if x.rank == 0:
            return zeros_like(dx)
        return dx - ReduceSum(-1, keepdims=True)(exp(y) * dx)

    def vmap(self, size: int, mapped: tuple[bool, ...], x: Value) -> Value:
        return zeros_like(x) if x.rank == 1 else self(x)


log_softmax = LogSoftmax()


# -- norms -----------------------------------------------------------------------------------------


class LayerNorm(Composite, inputs=("x", "gamma", "beta"), graphm="layerNorm"):
    """(x - mean) / sqrt(variance + eps) * gamma + beta along the last axis.

    ``x`` may have any leading axes; ``gamma`` and ``beta`` have the size of the last one. The
    variance is the biased one.
    """

    eps: Real = 1e-6

    def typing(self, x: Type, gamma: Type, beta: Type) -> Type:
        checks.floats(self, x=x, gamma=gamma, beta=beta)
        checks.scalar(self, "eps", x.dtype)
        if x.rank == 0:
            raise self.mismatch("x", ["...", "E"], x)
        width = x.shape[-1:]
        _sizes(self, width, gamma=gamma, beta=beta)
        return x

    def expand(self, x: Value, gamma: Value, beta: Value) -> Value:
        if x.shape[-1] == 0:
            return x
        return _standardize(x, (-1,), self.eps) * gamma + beta


class BatchnormChannelFirst(
    Composite, inputs=("x", "gamma", "beta"), graphm="batchnormChannelFirst"
):
    """Each channel of one sample [C,H,W] standardised over its own H*W cells, then scaled.

    The statistics are those of this one sample: there are no running ones, and under vmap each
    sample has its own. The variance is the biased one; where H*W = 1 the result is ``beta``.
    """

    eps: Real = 1e-6

    def typing(self, x: Type, gamma: Type, beta: Type) -> Type:
        checks.floats(self, x=x, gamma=gamma, beta=beta)
        checks.scalar(self, "eps", x.dtype)
        checks.rank(self, "x", x, 3, ["C", "H", "W"])
        _sizes(self, x.shape[:1], gamma=gamma, beta=beta)
        return x

    def expand(self, x: Value, gamma: Value, beta: Value) -> Value:
        if 0 in x.shape[1:]:
            return x
        scale, shift = (BroadcastTo(x.shape, (0,))(v) for v in (gamma, beta))
        if x.shape[1:] == (1, 1):  # exactly, whatever x and eps are
            return shift
        return _standardize(x, (1, 2), self.eps) * scale + shift


def _sizes(op: Op, shape: tuple[int, ...], **operands: Type) -> None:
    for name, t in operands.items():
        if t.shape != shape:
            raise op.mismatch(name, shape, t)


def _standardize(x: Value, axes: tuple[int, ...], eps: float) -> Value:
    mean = ReduceMean(axes, keepdims=True)
    centred = x - mean(x)
    return centred * rsqrt(mean(square(centred)) + eps)


# -- losses ----------------------------------------------------------------------------------------


class CrossEntropy(Composite, inputs=("logits", "labels")):
    """-log_softmax(logits) at each label; a label out of range contributes 0.

    ``logits`` are [*b, C], ``labels`` int64 [*b]. ``reduction`` is "mean" (over all labels, those
    out of range too), "sum", or "none" for one loss per label.
    """

    reduction: Reduce = "mean"

    def typing(self, logits: Type, labels: Type) -> Type:
        checks.floats(self, logits=logits)
        checks.dtypes(self, ("int64",), labels=labels)
        if logits.rank == 0:
            raise self.mismatch("logits", ["...", "C"], logits)
        if labels.shape != logits.shape[:-1]:
            raise self.mismatch("labels", logits.shape[:-1], labels)
        if self.reduction == "none":
            return logits.with_shape(labels.shape)
        if self.reduction == "mean" and labels.size == 0:
            raise self.mismatch("labels", ["at least one label"], labels, "mean over nothing")
        return logits.with_shape(())

    def expand(self, logits: Value, labels: Value) -> Value:
        last = logits.rank - 1
        classes = Iota(logits.shape, last, "int64")
        position = logits.builder.apply(classes)
        hit = equal(position, BroadcastTo(logits.shape, tuple(range(last)))(labels))
        picked = select(hit, -log_softmax(logits), 0.0)
        if self.reduction == "none":
            return ReduceSum(-1)(picked)
        total = ReduceSum()(picked)
        alone = self.reduction == "sum" or not labels.rank
        return total if alone else total / float(labels.type.size)


def _number(like: Value, number: float) -> Value:
    from .sources import literal

    return literal(like.builder, number, like.dtype)
