"""Graphs that are measured for what happens around a run: planning, compiling, waiting."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np

import gradwire_engine as gw
from gradwire_engine import Entry, Graph, Input, RunSpec, Type

from .cases import Array

WIDTH = 32


def mixed(
    nodes: int,
    order: int,
    constant: float = 0.5,
    seed: int = 1,
    batch: int = 16,
    width: int = WIDTH,
) -> Graph:
    """A chain of `nodes` ops on [batch, width], as a user might write one.

    Args:
        nodes: How many.
        order: Which of the possible sequences; another one is another graph.
        constant: Enters as a factor and as a constant tensor.
        seed: Of the random numbers in it.
        batch: Rows of ``x``.
        width: Columns of ``x``.
    """
    rng = random.Random(order)
    inputs = [
        Input("x", Type((batch, width))),
        Input("w", Type((width, width))),
        Input("v", Type((width,))),
    ]
    x, w, v = range(3)
    wide, noise, offset = (len(inputs) + i for i in range(3))
    fixed = np.full((batch, width), constant, np.float32)
    entries = [
        Entry("broadcast_to", (v,), {"shape": [batch, width]}),
        Entry("rand_uniform", (), {"shape": [batch, width], "seed": seed}),
        Entry("const", (), {"value": fixed}),
    ]
    choices = (
        lambda last: Entry("tanh", (last,)),
        lambda last: Entry("sigmoid", (last,)),
        lambda last: Entry("scale", (last,), {"c": constant}),
        lambda last: Entry("add", (last, wide)),
        lambda last: Entry("sub", (last, offset)),
        lambda last: Entry("mul", (last, noise)),
        lambda last: Entry("matmul", (last, w)),
        lambda last: Entry("softmax", (last,)),
    )
    last = x
    while len(entries) < nodes:
        entries.append(rng.choice(choices)(last))
        last = len(inputs) + len(entries) - 1
    builder = gw.Builder(inputs)
    builder.append(entries)
    return builder.graph({"y": last})


def mixed_tensors(batch: int = 16, width: int = WIDTH) -> dict[str, Array]:
    """Inputs for `mixed`, and a cotangent."""
    rng = np.random.default_rng(0)
    return {
        "inputs/x": rng.standard_normal((batch, width), np.float32),
        "inputs/w": rng.standard_normal((width, width), np.float32) / np.float32(width**0.5),
        "inputs/v": rng.standard_normal((width,), np.float32),
    }


def mixed_request(mode: str, tier: str) -> RunSpec:
    """A run of `mixed`; the VJP wants all gradients of a given cotangent."""
    return RunSpec(
        mode,
        inputs=("x", "w", "v"),
        cotangents=("y",) if mode == "vjp" else (),
        tier=tier,
    )


def sample_mlp(sizes: tuple[int, ...]) -> Graph:
    """The loss of one sample under an MLP with its layers' sizes, to be mapped."""
    layers = [(f"w{i}", n, m) for i, (m, n) in enumerate(pairwise(sizes))]
    inputs = [Input("x", Type(sizes[:1])), Input("label", Type((), "int64"))]
    inputs += [Input(name, Type((n, m))) for name, n, m in layers]
    inputs += [Input(f"b{name}", Type((n,))) for name, n, _ in layers]
    entries: list[Entry] = []
    last: int | str = "x"
    for name, _, _ in layers:
        entries.append(Entry("linear", (name, f"b{name}", last)))
        entries.append(Entry("tanh", (len(inputs) + len(entries) - 1,)))
        last = len(inputs) + len(entries) - 1
    entries[-1] = Entry("cross_entropy", (len(inputs) + len(entries) - 2, "label"))
    builder = gw.Builder(inputs)
    builder.append(entries)
    return builder.graph({"loss": len(inputs) + len(entries) - 1})
