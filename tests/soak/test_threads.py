"""Eight threads, each with a compiled graph of its own, all at once: no crash, no wrong number.

The long form (`make soak`) goes on for a minute, the short one for a few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Engine, RunSpec, ops
from gradwire_engine.ir import GraphBuilder, Input, Type, Value

pytestmark = pytest.mark.slow


def op(name: str, *operands: Value, **attributes: Any) -> Value:
    return ops.find(name).parse(attributes)(*operands)


def attention(x: Value, w: Value) -> Value:
    heads = op("transpose", op("reshape", op("matmul", x, w), shape=[48, 4, 16]), perm=[1, 0, 2])
    scores = op("bmm", heads, op("transpose", heads, perm=[0, 2, 1]))
    mixed = op("bmm", op("softmax", op("scale", scores, c=0.25)), heads)
    return op("reshape", op("transpose", mixed, perm=[1, 0, 2]), shape=[48, 64])


CASES: dict[str, tuple[str, Callable[..., Value], tuple[tuple[int, ...], ...]]] = {
    "mlp": (
        "vjp",
        lambda x, a, b: op("log_softmax", op("matmul", op("tanh", op("matmul", x, a)), b)),
        ((64, 100), (100, 80), (80, 10)),
    ),
    "convolution": (
        "vjp",
        lambda x, w: op("relu", op("conv_general", x, w, strides=[1, 1], low=[1, 1], high=[1, 1])),
        ((2, 8, 28, 28), (16, 8, 3, 3)),
    ),
    "attention": ("vjp", attention, ((48, 64), (64, 64))),
    "layer norm": ("jvp", lambda x, g, b: op("layer_norm", x, g, b), ((200, 64), (64,), (64,))),
    "pooling": (
        "vjp",
        lambda x: op("max_pool", x, kernel=[2, 2], stride=[2, 2]),
        ((8, 32, 32),),
    ),
    "scan": ("jvp", lambda x: op("cumsum", op("sin", x), axis=0), ((300, 70),)),
    "pointwise": ("forward", lambda x, y: op("erf", x) * op("softplus", y), ((300000,), (300000,))),
    "tiny": ("forward", lambda x: op("exp", op("sin", x)), ((16,),)),
}


def request(mode: str, names: list[str], tier: str) -> RunSpec:
    return RunSpec(
        mode,
        inputs=tuple(names),
        cotangents=("y",) if mode == "vjp" else (),
        tangents=tuple(names) if mode == "jvp" else (),
        tier=tier,
    )


def test_eight_graphs_at_once(long: bool) -> None:
    engine = Engine(threads=2)
    jobs: list[tuple[str, Any, Any, Any]] = []
    for name, (mode, function, shapes) in CASES.items():
        rng = np.random.default_rng(len(jobs))
        builder = GraphBuilder()
        inputs = {f"x{k}": shape for k, shape in enumerate(shapes)}
        values = [builder.input(Input(n, Type(shape))) for n, shape in inputs.items()]
        graph = builder.graph([("y", function(*values))])
        sizes = {f"inputs/{n}": shape for n, shape in inputs.items()}
        if mode == "vjp":
            sizes["cotangents/y"] = graph.type_of(graph.outputs[0][1]).shape
        if mode == "jvp":
            sizes |= {f"tangents/{n}": shape for n, shape in inputs.items()}
        given = {path: rng.standard_normal(shape, np.float32) for path, shape in sizes.items()}
        interpreted = engine.prepare(graph, request(mode, list(inputs), "interpreted"))
        prepared = engine.prepare(graph, request(mode, list(inputs), "compiled"))
        assert prepared.execute(given).tier == "compiled"
        jobs.append((name, prepared, given, interpreted.execute(given).results))

    end = time.monotonic() + (60 if long else 3)
    runs = dict.fromkeys(CASES, 0)
    faults: list[BaseException] = []

    def work(name: str, prepared: Any, given: Any, expected: Any) -> None:
        try:
            first = prepared.execute(given).results
            for path, array in expected.items():
                scale = float(np.abs(array).max())
                np.testing.assert_allclose(first[path], array, rtol=1e-4, atol=1e-5 * scale)
            while time.monotonic() < end or runs[name] < 3:
                for path, array in prepared.execute(given).results.items():
                    # Who helped and who ran beside it makes no difference, not even in rounding.
                    np.testing.assert_array_equal(array, first[path], err_msg=f"{name} {path}")
                runs[name] += 1
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    assert min(runs.values()) >= 3
