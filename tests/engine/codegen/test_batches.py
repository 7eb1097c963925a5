"""A batch of another size compiles nothing, and one of a single sample is computed right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradwire_engine import ops, transform
from gradwire_engine.codegen.batch import BATCH, batched, elements
from gradwire_engine.codegen.cache import Cache, Entry
from gradwire_engine.codegen.compiler import CompileError, Compiler
from gradwire_engine.codegen.program import Call, Kernel, Schedule
from gradwire_engine.codegen.programs import Programs, Upgrade, compiler_for, jit_is_off
from gradwire_engine.codegen.schedule import schedule
from gradwire_engine.ir import Graph, GraphBuilder, Input, Type, Value
from gradwire_engine.passes import optimize

from ...laws.tiers import agree

Shapes = Mapping[str, tuple[int, ...]]


def op(name: str, *operands: Value, **attributes: Any) -> Value:
    return ops.find(name).parse(attributes)(*operands)


def build(function: Callable[..., Value], shapes: Shapes) -> Graph:
    builder = GraphBuilder()
    values = [
        builder.input(Input(name, Type(shape, "int64" if name == "labels" else "float32")))
        for name, shape in shapes.items()
    ]
    return builder.graph([("y", function(*values))])


# -- graphs over whole batches ---------------------------------------------------------------------


def gelu_rows(b: int) -> Graph:
    def function(x: Value, bias: Value) -> Value:
        return op("softmax", op("gelu", x + bias)) * op("reduce_mean", x, axis=1, keepdims=True)

    return build(function, {"x": (b, 12), "bias": (12,)})


def normed(b: int) -> Graph:
    def function(x: Value, w: Value, gamma: Value, beta: Value) -> Value:
        return op("tanh", op("layer_norm", op("matmul", x, w), gamma, beta))

    return build(function, {"x": (b, 10), "w": (10, 12), "gamma": (12,), "beta": (12,)})


def classifier(b: int) -> Graph:
    def function(x: Value, t: Value, w: Value, c: Value, v: Value, d: Value) -> Value:
        hidden = op("relu", op("matmul", x, w) + c)
        return -op("reduce_mean", op("log_softmax", op("matmul", hidden, v) + d) * t)

    shapes = {"w": (12, 20), "c": (20,), "v": (20, 10), "d": (10,)}
    return build(function, {"x": (b, 12), "t": (b, 10), **shapes})


def logistic(b: int) -> Graph:
    def function(x: Value, y: Value, w: Value, c: Value) -> Value:
        z = op("reshape", op("matmul", x, w) + c, shape=[-1])
        return op("reduce_mean", op("softplus", z) - y * z)

    return build(function, {"x": (b, 12), "y": (b,), "w": (12, 1), "c": (1,)})


def regression(b: int) -> Graph:
    def function(x: Value, y: Value, w: Value, c: Value) -> Value:
        return op("mse_loss", op("sigmoid", op("matmul", x, w) + c), y)

    return build(function, {"x": (b, 12), "y": (b, 1), "w": (12, 1), "c": (1,)})


def pictures(b: int) -> Graph:
    def function(x: Value, k: Value) -> Value:
        seen = op("relu", op("conv_general", x, k, strides=1, low=1, high=1))
        return op("max_pool", op("avg_pool", seen, kernel=2, stride=2), kernel=2, stride=2)

    return build(function, {"x": (b, 3, 8, 8), "k": (4, 3, 3, 3)})


def strides(b: int) -> Graph:
    """Convolutions whose best way depends on the batch."""

    def function(x: Value, k: Value, w: Value) -> Value:
        seen = op("relu", op("conv_general", x, k, strides=2, low=1, high=1))
        return op("conv_general", seen, w, strides=2)

    return build(function, {"x": (b, 1, 16, 16), "k": (8, 1, 5, 5), "w": (8, 8, 1, 1)})


def statistics(b: int) -> Graph:
    def function(x: Value, w: Value) -> Value:
        total = op("reduce_sum", x * x, axis=0)
        return op("reduce_max", op("exp", x * w), axis=1) + op("reduce_mean", total)

    return build(function, {"x": (b, 12), "w": (b, 12)})


def sequences(b: int) -> Graph:
    """Attention over the second of three axes, spelled out."""

    def function(x: Value, w: Value, v: Value) -> Value:
        def heads(weight: Value, *perm: int) -> Value:
            flat = op("matmul", op("reshape", x, shape=[-1, 8]), weight)
            split = op("transpose", op("reshape", flat, shape=[-1, 6, 2, 4]), perm=list(perm))
            return op("reshape", split, shape=[-1, *split.shape[2:]])

        q, k = heads(w, 0, 2, 1, 3), heads(v, 0, 2, 3, 1)
        return op("softmax", op("scale", op("bmm", q, k), c=0.5))

    return build(function, {"x": (b, 6, 8), "w": (8, 8), "v": (8, 8)})


# -- graphs over one sample ------------------------------------------------------------------------


def attentive() -> Graph:
    """A block of a transformer."""

    def function(x: Value, *weights: Value) -> Value:
        q, k, v, o, gamma, beta, w, c, u, d = weights
        x = x + op(
            "multi_head_attention", q, k, v, o, op("layer_norm", x, gamma, beta), num_heads=2
        )
        hidden = op("gelu", op("matmul", op("layer_norm", x, gamma, beta), w) + c)
        return x + op("matmul", hidden, u) + d

    square = dict.fromkeys("qkvo", (8, 8))
    rest = {"gamma": (8,), "beta": (8,), "w": (8, 16), "c": (16,), "u": (16, 8), "d": (8,)}
    return build(function, {"x": (6, 8), **square, **rest})


def lenet() -> Graph:
    def function(x: Value, labels: Value, *weights: Value) -> Value:
        k, c, m, d, w, e = weights
        x = op("max_pool", op("relu", op("conv", k, c, x, padding=2)), kernel=2, stride=2)
        x = op("max_pool", op("relu", op("conv", m, d, x)), kernel=2, stride=2)
        return op("cross_entropy", op("linear", w, e, op("reshape", x, shape=[-1])), labels)

    shapes = {"k": (3, 1, 5, 5), "c": (3,), "m": (4, 3, 5, 5), "d": (4,), "w": (10, 4), "e": (10,)}
    return build(function, {"x": (1, 12, 12), "labels": (), **shapes})


WHOLE = [
    gelu_rows,
    normed,
    classifier,
    logistic,
    regression,
    pictures,
    strides,
    statistics,
    sequences,
]
MAPPED = [attentive, lenet]


def graphs() -> dict[str, Callable[[int], Graph]]:
    found: dict[str, Callable[[int], Graph]] = {f.__name__: f for f in WHOLE}
    for sample in MAPPED:

        def mapped(b: int, sample: Callable[[], Graph] = sample) -> Graph:
            graph = sample()
            names = (spec.name for spec in graph.inputs)
            return transform.vmap(graph, b, {n: 0 for n in names if n in ("x", "labels")})

        found[sample.__name__] = mapped
    return found


GRAPHS = graphs()


def in_mode(graph: Graph, mode: str) -> Graph:
    names = [s.name for s in graph.inputs if s.type.is_float]
    if mode == "vjp":
        return transform.vjp(graph, names, ["y"])
    return transform.jvp(graph, names) if mode == "jvp" else graph


def kernels(graph: Graph, mode: str) -> dict[str, Kernel]:
    """The kernels of a plan, by their text."""
    steps = schedule(optimize(in_mode(graph, mode)), threads=2).steps
    return {s.kernel.text: s.kernel for s in steps if isinstance(s, Call)}


@pytest.mark.parametrize("mode", ["forward", "vjp", "jvp"])
@pytest.mark.parametrize("name", GRAPHS)
def test_another_batch_has_the_same_kernels(name: str, mode: str) -> None:
    compiled = kernels(GRAPHS[name](16), mode)
    known = {*compiled, *(text for kernel in compiled.values() for text in kernel.kin)}
    for batch in (1, 2, 3, 7, 33, 100, 1000):
        found = kernels(GRAPHS[name](batch), mode)
        new = [kernel.title for text, kernel in found.items() if text not in known]
        assert new == [], f"a batch of {batch}"


@pytest.mark.parametrize("mode", ["forward", "vjp", "jvp"])
@pytest.mark.parametrize("name", GRAPHS)
def test_another_batch_asks_the_compiler_for_nothing(name: str, mode: str) -> None:
    """From the moment on that the first batch is compiled."""
    compiler = compiler_for()
    programs = Programs(compiler, threads=2)

    def load(batch: int) -> Upgrade:
        graph = optimize(in_mode(GRAPHS[name](batch), mode))
        upgrade = programs.request(lambda: schedule(graph, threads=2))
        assert upgrade.wait(240)
        assert upgrade.native is not None, upgrade.reason
        return upgrade

    load(16)
    missed = compiler.tally.missed
    for batch in (1, 2, 3, 7, 100):
        load(batch)
        assert compiler.tally.missed == missed, f"a batch of {batch}"


class _Asked(Compiler):
    """A compiler that has nothing, and keeps what it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Cache(folder))
        self.texts: list[str] = []

    def request(self, kernels: Iterable[Kernel]) -> list[Future[Entry]]:
        found = []
        for kernel in kernels:
            self.texts.append(kernel.text)
            found.append(Future[Entry]())
            found[-1].set_exception(CompileError("nothing is compiled here"))
        return found


@pytest.mark.skipif(jit_is_off(), reason="there is nothing to compile")
def test_kin_come_along(tmp_path: Path) -> None:
    compiler = _Asked(tmp_path)
    kernel = Kernel("own text", kin=("own text", "text of kin"))
    call = Call(kernel, (), (), count=1, chunks=1, writes=())
    upgrade = Programs(compiler).request(lambda: Schedule((), (call,), ()))
    assert upgrade.wait(60)
    assert compiler.texts.count("own text") == 1
    assert compiler.texts[-1] == "text of kin"


@pytest.mark.parametrize("mode", ["forward", "vjp", "jvp"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_batch_of_one_is_computed_right(name: str, mode: str) -> None:
    graph = in_mode(GRAPHS[name](1), mode)
    rng = np.random.default_rng(5)
    arrays = [
        rng.standard_normal(s.type.shape).astype(s.type.dtype)
        if s.type.is_float
        else np.full(s.type.shape, 3, s.type.dtype)
        for s in graph.inputs
    ]
    agree(graph, arrays)


def test_a_large_sample_keeps_its_threads() -> None:
    graph = build(lambda x, c: op("tanh", x + c), {"x": (1, 100_000), "c": (100_000,)})
    (call,) = schedule(optimize(graph), threads=2).steps
    assert isinstance(call, Call)
    assert call.chunks == 2


def test_a_weight_of_one_row_is_no_batch() -> None:
    graph = optimize(regression(16))
    assert batched(graph) is graph


@pytest.mark.parametrize("number", [0, 7, -7, 12 * 32])
def test_planned_numbers_are_polynomials(number: int) -> None:
    assert elements(number) == number
    assert elements(number * BATCH) == number
    assert elements(number * BATCH - 3 * BATCH**2 + 5) == number + 2
    assert elements(number * (BATCH - 1)) == 0


def test_long_chains_are_traced() -> None:
    def function(x: Value, noise: Value) -> Value:
        for _ in range(3000):
            noise = -op("abs", noise)
        return x * noise

    graph = optimize(build(function, {"x": (1, 4), "noise": (1, 4)}))
    shapes = {node.type.shape for node in batched(graph).nodes}
    assert shapes == {(BATCH, 4)}
