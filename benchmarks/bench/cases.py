"""The measured cases, each written once over a small vocabulary that every peer spells in its way.

A case's function takes the vocabulary (see `Words`) and its inputs. `ROUND` holds the sizes of
everyday examples, `ODD` the same cases at sizes that no kernel can be tuned to, and at batches of
1, 7 and 100. All data is float32 (labels are int64) and drawn from a seed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

MODES = ("forward", "vjp", "jvp")
EPS = 1e-5
"""Layer norm's, the same for all."""

BOUND_FAMILIES = ("elementwise", "softmax", "layer_norm", "pooling", "tiny")
"""Families whose ratio should be at most 0.7 where a limit allows it."""


class Words(Protocol):
    """The vocabulary. Images are [C, H, W] or [N, C, H, W]; kernels and strides are square."""

    # ruff: noqa: D102  most words need no more than their name
    def sum(self, x: Any) -> Any: ...
    def mean(self, x: Any) -> Any: ...
    def exp(self, x: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...
    def sigmoid(self, x: Any) -> Any: ...
    def softplus(self, x: Any) -> Any: ...
    def relu(self, x: Any) -> Any: ...
    def gelu(self, x: Any) -> Any: ...
    def softmax(self, x: Any) -> Any: ...
    def layer_norm(self, x: Any, gamma: Any, beta: Any) -> Any: ...
    def matmul(self, a: Any, b: Any) -> Any: ...
    def dense(self, x: Any, w: Any, b: Any) -> Any:
        """X w + b, w: [in, out]."""

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """X w^T + b for one or more rows, w: [out, in]."""

    def attention(self, x: Any, wq: Any, wk: Any, wv: Any, wo: Any, heads: int) -> Any:
        """Self-attention of the rows of x, with its four projections."""

    def conv(self, x: Any, w: Any, b: Any | None, stride: int, padding: int) -> Any: ...
    def max_pool(self, x: Any, kernel: int, stride: int) -> Any: ...
    def avg_pool(self, x: Any, kernel: int, stride: int) -> Any: ...
    def flatten(self, x: Any, keep: int) -> Any:
        """All axes after the first `keep` in one."""

    def cross_entropy(self, logits: Any, labels: Any) -> Any:
        """The mean over all labels; one row and one label are a batch of one."""


@dataclass(frozen=True)
class Draw:
    """An input: normal numbers times `scale`, or class numbers below `labels`."""

    name: str
    shape: Shape
    scale: float = 1.0
    labels: int = 0
    differentiable: bool = True


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: Begins with the letter under which `--cases` finds it.
        family: For the geometric means.
        inputs: In the function's order.
        function: From vocabulary and inputs to the result.
        sample: The same for one sample of the `mapped` inputs (axis 0 taken off); the result is the
            mean over samples. Ours runs this one, mapped; a peer runs what is faster for it.
        mapped: Names of the inputs that have a sample axis.
    """

    name: str
    family: str
    inputs: tuple[Draw, ...]
    function: Callable[..., Any]
    sample: Callable[..., Any] | None = None
    mapped: tuple[str, ...] = ()

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Names of the inputs with gradients and tangents."""
        return tuple(d.name for d in self.inputs if d.differentiable and not d.labels)


@dataclass(frozen=True)
class Data:
    """Everything that a case is run with; a direction is as large as what it belongs to."""

    inputs: dict[str, Array]
    tangents: dict[str, Array]
    cotangent: Array


def draw(case: Case, seed: int, result: Shape) -> Data:
    """The data of a case; the same in every process."""

    def stream(kind: int, name: str) -> np.random.Generator:
        return np.random.default_rng([seed, kind, zlib.crc32(f"{case.name}/{name}".encode())])

    def normal(kind: int, name: str, shape: Shape, scale: float = 1.0) -> Array:
        array = np.asarray(stream(kind, name).standard_normal(shape, np.float32))
        return np.multiply(array, np.float32(scale), out=array)

    def value(d: Draw) -> Array:
        if d.labels:
            return np.asarray(stream(0, d.name).integers(0, d.labels, d.shape))
        return normal(0, d.name, d.shape, d.scale)

    inputs = {d.name: value(d) for d in case.inputs}
    tangents = {name: normal(1, name, inputs[name].shape) for name in case.differentiable}
    return Data(inputs, tangents, normal(2, "cotangent", result))


# -- the functions ---------------------------------------------------------------------------------


def _chain(w: Words, x: Any, a: Any, b: Any) -> Any:
    return w.tanh(a * x + b) * w.sigmoid(x) + w.exp(-(x * x)) * w.softplus(x)


def _chain_sum(w: Words, x: Any, a: Any, b: Any) -> Any:
    return w.sum(_chain(w, x, a, b))


def _mlp(w: Words, x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any, y: Any) -> Any:
    x = w.relu(w.dense(x, w1, b1))
    x = w.relu(w.dense(x, w2, b2))
    return w.cross_entropy(w.dense(x, w3, b3), y)


def _twenty(w: Words, x: Any, y: Any) -> Any:
    for _ in range(5):
        x = w.tanh(x * y) + x
        y = y - x
    return x * y


def _lenet(keep: int) -> Callable[..., Any]:
    """LeNet-5 with ReLU and max pooling; `keep` is 1 for a batch, 0 for one image."""

    def function(w: Words, x: Any, y: Any, c1: Any, b1: Any, c2: Any, b2: Any, *fc: Any) -> Any:
        x = w.max_pool(w.relu(w.conv(x, c1, b1, 1, 2)), 2, 2)
        x = w.max_pool(w.relu(w.conv(x, c2, b2, 1, 0)), 2, 2)
        x = w.flatten(x, keep)
        x = w.relu(w.linear(x, fc[0], fc[1]))
        x = w.relu(w.linear(x, fc[2], fc[3]))
        return w.cross_entropy(w.linear(x, fc[4], fc[5]), y)

    return function


def _logistic(w: Words, x: Any, y: Any, weight: Any, bias: Any) -> Any:
    z = w.matmul(x, weight) + bias
    return w.mean(w.softplus(z) - y * z)


# -- the cases -------------------------------------------------------------------------------------


def _elementwise(name: str, n: int, function: Callable[..., Any]) -> Case:
    draws = (Draw("x", (n,)), Draw("a", (), 0.7), Draw("b", (), 0.1))
    return Case(name, "elementwise", draws, function)


def _dense_layers(batch: int, sizes: Sequence[int]) -> tuple[Draw, ...]:
    draws = [Draw("x", (batch, sizes[0]))]
    for i, (m, n) in enumerate(pairwise(sizes), start=1):
        draws += [Draw(f"w{i}", (m, n), 1 / math.sqrt(m)), Draw(f"b{i}", (n,))]
    return (*draws, Draw("y", (batch,), labels=sizes[-1]))


def _mlp_case(name: str, batch: int, sizes: Sequence[int]) -> Case:
    return Case(name, "mlp", _dense_layers(batch, sizes), _mlp)


def _softmax(name: str, rows: int, columns: int) -> Case:
    return Case(name, "softmax", (Draw("x", (rows, columns)),), lambda w, x: w.softmax(x))


def _layer_norm(name: str, rows: int, columns: int) -> Case:
    draws = (Draw("x", (rows, columns)), Draw("gamma", (columns,)), Draw("beta", (columns,)))
    return Case(name, "layer_norm", draws, lambda w, x, g, b: w.layer_norm(x, g, b))


def _conv(name: str, image: Shape, filters: int, kernel: int, stride: int, padding: int) -> Case:
    scale = 1 / math.sqrt(image[1] * kernel * kernel)
    weight = Draw("w", (filters, image[1], kernel, kernel), scale)

    def function(w: Words, x: Any, weight: Any) -> Any:
        return w.conv(x, weight, None, stride, padding)

    return Case(name, "conv", (Draw("x", image), weight), function)


def _pool(name: str, image: Shape, word: str, kernel: int, stride: int) -> Case:
    def function(w: Words, x: Any) -> Any:
        return getattr(w, word)(x, kernel, stride)

    return Case(name, "pooling", (Draw("x", image),), function)


def _attention(name: str, n: int, d: int, heads: int) -> Case:
    draws = [Draw("x", (n, d)), *(Draw(f"w{k}", (d, d), 1 / math.sqrt(d)) for k in "qkvo")]
    return Case(name, "attention", tuple(draws), lambda w, *v: w.attention(*v, heads))


def _matmul(name: str, a: Shape, b: Shape) -> Case:
    return Case(name, "matmul", (Draw("a", a), Draw("b", b)), lambda w, a, b: w.matmul(a, b))


def _tiny(name: str, n: int) -> Case:
    return Case(name, "tiny", (Draw("x", (n,)), Draw("y", (n,), 0.1)), _twenty)


def _lenet_case(name: str, batch: int, height: int, width: int) -> Case:
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    sizes = {"c1": (6, 1, 5, 5), "c2": (16, 6, 5, 5), "f1": (120, flat), "f2": (84, 120)}
    draws = [
        Draw("x", (batch, 1, height, width), differentiable=False),
        Draw("y", (batch,), labels=10),
    ]
    for layer, shape in (sizes | {"f3": (10, 84)}).items():
        draws.append(Draw(layer, shape, 1 / math.sqrt(math.prod(shape[1:]))))
        draws.append(Draw(f"b{layer}", shape[:1], 0.1))
    return Case(name, "model", tuple(draws), _lenet(1), _lenet(0), ("x", "y"))


def _transformer_case(name: str, n: int, d: int, heads: int) -> Case:
    """A pre-norm block: x + attention(norm(x)), then + mlp(norm(.)) with a hidden layer of 4 d."""
    draws = [Draw("x", (n, d))]
    draws += [Draw("g1", (d,)), Draw("s1", (d,))]
    draws += [Draw(f"w{k}", (d, d), 1 / math.sqrt(d)) for k in "qkvo"]
    draws += [Draw("g2", (d,)), Draw("s2", (d,))]
    draws += [Draw("w1", (d, 4 * d), 1 / math.sqrt(d)), Draw("b1", (4 * d,))]
    draws += [Draw("w2", (4 * d, d), 0.5 / math.sqrt(d)), Draw("b2", (d,))]

    def function(w: Words, x: Any, g1: Any, s1: Any, *rest: Any) -> Any:
        wq, wk, wv, wo, g2, s2, w1, b1, w2, b2 = rest
        x = x + w.attention(w.layer_norm(x, g1, s1), wq, wk, wv, wo, heads)
        hidden = w.gelu(w.dense(w.layer_norm(x, g2, s2), w1, b1))
        return x + w.dense(hidden, w2, b2)

    return Case(name, "model", tuple(draws), function)


def _logistic_case(name: str, rows: int, columns: int) -> Case:
    draws = (
        Draw("x", (rows, columns), differentiable=False),
        Draw("y", (rows, 1), differentiable=False),
        Draw("weight", (columns, 1), 1 / math.sqrt(columns)),
        Draw("bias", ()),
    )
    return Case(name, "model", draws, _logistic)


ROUND: tuple[Case, ...] = (
    _elementwise("a_elementwise_sum_1M", 1_000_000, _chain_sum),
    _elementwise("a2_elementwise_1M", 1_000_000, _chain),
    _mlp_case("b_mlp_784_512_512_10_b128", 128, (784, 512, 512, 10)),
    _softmax("c1_softmax_4096x1024", 4096, 1024),
    _layer_norm("c2_layer_norm_4096x1024", 4096, 1024),
    _conv("d1_conv3x3_64_64_56", (1, 64, 56, 56), 64, 3, 1, 1),
    _conv("d1_conv3x3_64_64_56_b16", (16, 64, 56, 56), 64, 3, 1, 1),
    _conv("d2_conv1x1_256_64_56", (1, 256, 56, 56), 64, 1, 1, 0),
    _conv("d2_conv1x1_256_64_56_b16", (16, 256, 56, 56), 64, 1, 1, 0),
    _conv("d3_conv7x7s2_3_64_224", (1, 3, 224, 224), 64, 7, 2, 3),
    _conv("d3_conv7x7s2_3_64_224_b16", (16, 3, 224, 224), 64, 7, 2, 3),
    _pool("e1_max_pool2_64x112x112", (64, 112, 112), "max_pool", 2, 2),
    _pool("e2_avg_pool2_64x112x112", (64, 112, 112), "avg_pool", 2, 2),
    _attention("f_attention_n256_d512_h8", 256, 512, 8),
    _matmul("g1_matmul_1024", (1024, 1024), (1024, 1024)),
    _matmul("g2_bmm_32x128", (32, 128, 128), (32, 128, 128)),
    _tiny("h_tiny_20ops_16", 16),
    _lenet_case("m1_lenet_28x28_b64", 64, 28, 28),
    _transformer_case("m2_transformer_n128_d256", 128, 256, 4),
    _logistic_case("m3_logistic_10000x100", 10_000, 100),
)

ODD: tuple[Case, ...] = (
    _elementwise("a_elementwise_sum_999983", 999_983, _chain_sum),
    _elementwise("a2_elementwise_999983", 999_983, _chain),
    *(_mlp_case(f"b_mlp_783_511_509_11_b{n}", n, (783, 511, 509, 11)) for n in (1, 7, 100)),
    _softmax("c1_softmax_4095x1023", 4095, 1023),
    _softmax("c1_softmax_7x1021", 7, 1021),
    _layer_norm("c2_layer_norm_4095x1023", 4095, 1023),
    _layer_norm("c2_layer_norm_7x1021", 7, 1021),
    _conv("d1_conv3x3_61_67_55x57", (1, 61, 55, 57), 67, 3, 1, 1),
    _conv("d1_conv3x3_61_67_55x57_b7", (7, 61, 55, 57), 67, 3, 1, 1),
    _conv("d1_conv3x3_61_67_13x15_b100", (100, 61, 13, 15), 67, 3, 1, 1),
    _conv("d2_conv1x1_251_67_55x57", (1, 251, 55, 57), 67, 1, 1, 0),
    _conv("d2_conv1x1_251_67_55x57_b7", (7, 251, 55, 57), 67, 1, 1, 0),
    _conv("d2_conv1x1_251_67_13x15_b100", (100, 251, 13, 15), 67, 1, 1, 0),
    _conv("d3_conv7x7s2_3_61_223x221", (1, 3, 223, 221), 61, 7, 2, 3),
    _conv("d3_conv7x7s2_3_61_223x221_b7", (7, 3, 223, 221), 61, 7, 2, 3),
    _conv("d3_conv7x7s2_3_61_55x57_b100", (100, 3, 55, 57), 61, 7, 2, 3),
    _pool("e1_max_pool3s2_61x113x111", (61, 113, 111), "max_pool", 3, 2),
    _pool("e2_avg_pool3s2_61x113x111", (61, 113, 111), "avg_pool", 3, 2),
    _attention("f_attention_n255_d504_h8", 255, 504, 8),
    _matmul("g1_matmul_1023x1025x1021", (1023, 1025), (1025, 1021)),
    _matmul("g2_bmm_7x127x129x125", (7, 127, 129), (7, 129, 125)),
    _matmul("g2_bmm_100x63x65x61", (100, 63, 65), (100, 65, 61)),
    _tiny("h_tiny_20ops_17", 17),
    *(_lenet_case(f"m1_lenet_27x29_b{n}", n, 27, 29) for n in (1, 7, 100)),
    _transformer_case("m2_transformer_n127_d252", 127, 252, 4),
    _logistic_case("m3_logistic_9973x97", 9973, 97),
)

SHAPES = {"round": ROUND, "odd": ODD}


def find(shapes: str, name: str) -> Case:
    """The case of that name."""
    return next(case for case in SHAPES[shapes] if case.name == name)


def select(shapes: str, wanted: Sequence[str]) -> tuple[Case, ...]:
    """Cases by full name or by the beginning of it (``d``: d1 to d3; ``d1``); none named: all.

    Raises:
        ValueError: A word fits no case.
    """
    cases = SHAPES[shapes]
    for word in wanted:
        if not any(case.name.startswith(word) for case in cases):
            known = ", ".join(case.name for case in cases)
            raise ValueError(f"no case begins with {word!r}; there are {known}")
    return tuple(c for c in cases if not wanted or any(c.name.startswith(w) for w in wanted))
