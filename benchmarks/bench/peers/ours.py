"""Ours: a graph grown through the public builder, prepared once, executed by path."""

# ruff: noqa: D102  the words are described where they are declared, in `cases.Words`

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import gradwire_engine as gw
from gradwire_engine import Entry, Graph, Input, RunSpec, Type
from gradwire_engine.prepared import Prepared

from ..cases import EPS, Array, Case, Data
from . import Thunk


class Recorded:
    """A value of a growing graph, with the operators that the cases use; they broadcast."""

    def __init__(self, builder: gw.Builder, id: int) -> None:
        self.builder, self.id = builder, id

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes per axis."""
        return self.builder.type_of(self.id).shape

    def op(self, name: str, *others: Recorded, **attrs: Any) -> Recorded:
        """A new node whose first operand is this value."""
        refs = (self.id, *(other.id for other in others))
        self.builder.append([Entry(name, refs, attrs)])
        return Recorded(self.builder, self.builder.ctx_len - 1)

    def _binary(self, name: str, other: Recorded) -> Recorded:
        shape = np.broadcast_shapes(self.shape, other.shape)
        a, b = (
            v if v.shape == shape else v.op("broadcast_to", shape=list(shape))
            for v in (self, other)
        )
        return a.op(name, b)

    def __add__(self, other: Recorded) -> Recorded:
        return self._binary("add", other)

    def __sub__(self, other: Recorded) -> Recorded:
        return self._binary("sub", other)

    def __mul__(self, other: Recorded) -> Recorded:
        return self._binary("mul", other)

    def __neg__(self) -> Recorded:
        return self.op("neg")


class GraphWords:
    """The vocabulary as ops of the catalogue."""

    def sum(self, x: Recorded) -> Recorded:
        return x.op("sum")

    def mean(self, x: Recorded) -> Recorded:
        return x.op("reduce_mean")

    def exp(self, x: Recorded) -> Recorded:
        return x.op("exp")

    def tanh(self, x: Recorded) -> Recorded:
        return x.op("tanh")

    def sigmoid(self, x: Recorded) -> Recorded:
        return x.op("sigmoid")

    def softplus(self, x: Recorded) -> Recorded:
        return x.op("softplus")

    def relu(self, x: Recorded) -> Recorded:
        return x.op("relu")

    def gelu(self, x: Recorded) -> Recorded:
        return x.op("gelu")

    def softmax(self, x: Recorded) -> Recorded:
        return x.op("softmax")

    def layer_norm(self, x: Recorded, gamma: Recorded, beta: Recorded) -> Recorded:
        return x.op("layer_norm", gamma, beta, eps=EPS)

    def matmul(self, a: Recorded, b: Recorded) -> Recorded:
        return a.op("matmul" if len(a.shape) == 2 else "bmm", b)

    def dense(self, x: Recorded, w: Recorded, b: Recorded) -> Recorded:
        return x.op("matmul", w) + b

    def linear(self, x: Recorded, w: Recorded, b: Recorded) -> Recorded:
        return w.op("linear", b, x)

    def attention(
        self, x: Recorded, wq: Recorded, wk: Recorded, wv: Recorded, wo: Recorded, heads: int
    ) -> Recorded:
        return wq.op("multi_head_attention", wk, wv, wo, x, num_heads=heads)

    def conv(
        self, x: Recorded, w: Recorded, b: Recorded | None, stride: int, padding: int
    ) -> Recorded:
        if b is None:
            return x.op("conv_general", w, strides=stride, low=padding, high=padding)
        return w.op("conv", b, x, stride=stride, padding=padding)

    def max_pool(self, x: Recorded, kernel: int, stride: int) -> Recorded:
        return x.op("max_pool", kernel=kernel, stride=stride)

    def avg_pool(self, x: Recorded, kernel: int, stride: int) -> Recorded:
        return x.op("avg_pool", kernel=kernel, stride=stride)

    def flatten(self, x: Recorded, keep: int) -> Recorded:
        return x.op("reshape", shape=[*x.shape[:keep], -1])

    def cross_entropy(self, logits: Recorded, labels: Recorded) -> Recorded:
        return logits.op("cross_entropy", labels)


def record(case: Case) -> Graph:
    """The case's graph, its result called ``y``; of one sample where the case is mapped."""
    specs = []
    for d in case.inputs:
        shape = d.shape[1:] if d.name in case.mapped else d.shape
        declared = Type(shape, "int64" if d.labels else "float32")
        specs.append(Input(d.name, declared, d.name in case.differentiable))
    builder = gw.Builder(specs)
    function = case.sample or case.function
    result = function(GraphWords(), *(Recorded(builder, i) for i in range(len(specs))))
    return builder.graph({"y": result.id})


def request(case: Case, mode: str, tier: str) -> RunSpec:
    """The run that answers with the value, and with all gradients or the value's tangent.

    Of a mapped case: the mean over samples, parameter gradients reduced, never stacked.
    """
    reduce: dict[str, str] = {}
    if case.mapped:
        paths = {
            "forward": ["outputs/y"],
            "vjp": ["outputs/y", *(f"gradients/{name}" for name in case.differentiable)],
            "jvp": ["outputs/y", "tangents/y"],
        }[mode]
        reduce = dict.fromkeys(paths, "mean")
    return RunSpec(
        mode,
        inputs=tuple(d.name for d in case.inputs),
        cotangents=("y",) if mode == "vjp" else (),
        tangents=case.differentiable if mode == "jvp" else (),
        in_axes={f"inputs/{name}": 0 for name in case.mapped},
        reduce=reduce,
        tier=tier,
    )


def tensors(mode: str, data: Data) -> dict[str, Array]:
    """What `Prepared.execute` takes."""
    given = {f"inputs/{name}": array for name, array in data.inputs.items()}
    if mode == "vjp":
        given["cotangents/y"] = data.cotangent
    if mode == "jvp":
        given |= {f"tangents/{name}": array for name, array in data.tangents.items()}
    return given


def mapped_size(case: Case) -> int | None:
    """The length of the sample axis of a mapped case."""
    return next((d.shape[0] for d in case.inputs if d.name in case.mapped), None)


class Ours:
    """Gradwire's engine in one tier."""

    def __init__(self, tier: str = "compiled", threads: int = 2, **_: Any) -> None:
        self.tier = tier
        self.engine = gw.Engine(compile=tier != "interpreted", threads=threads)

    def versions(self) -> dict[str, str]:
        """NumPy's; ours is what the working tree holds."""
        return {"numpy": np.__version__}

    def prepare(self, case: Case, mode: str) -> Prepared:
        """The case's request, checked against its graph."""
        return self.engine.prepare(record(case), request(case, mode, self.tier))

    def spellings(
        self, case: Case, mode: str, data: Data
    ) -> Iterator[tuple[str, Callable[[], Thunk]]]:
        """The one public way."""

        def thunk() -> Thunk:
            prepared, given = self.prepare(case, mode), tensors(mode, data)
            return lambda: prepared.execute(given)

        yield "prepared.execute", thunk

    def memory(self, case: Case, mode: str, _: Data) -> int:
        """Bytes of the planned peak."""
        return self.prepare(case, mode).peak_bytes(mapped_size(case))

    def arrays(self, result: Any) -> list[Array]:
        """The results, which come in the order wanted here."""
        return list(result.results.values())
