"""Random programs: hypothesis chooses ops and operands, and every value stays of moderate size.

A program is 10 to 30 nodes over small shapes. Each value carries a bound on its magnitude; where an
op would exceed the limit, a tanh comes first, so that differences stay accurate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradwire_engine import ops
from gradwire_engine.ir import Graph, GraphBuilder, Input, Type, Value

from .case import Array
from .harness import frozen

LIMIT = 3.0
SHAPES = ((), (2,), (3,), (2, 3), (3, 2), (3, 3), (1, 3), (2, 1, 3))

# name -> bound of the result, from the bound of the operand
SMOOTH: dict[str, Callable[[float], float]] = {
    "tanh": lambda a: 1.0,
    "sin": lambda a: 1.0,
    "cos": lambda a: 1.0,
    "erf": lambda a: 1.0,
    "sigmoid": lambda a: 1.0,
    "softplus": lambda a: a + 1,
    "square": lambda a: a * a,
    "neg": lambda a: a,
    "silu": lambda a: a,
    "gelu": lambda a: a,
    "softmax": lambda a: 1.0,
    "log_softmax": lambda a: 2 * a + 2,
}
KINKED: dict[str, Callable[[float], float]] = {
    "relu": lambda a: a,
    "abs": lambda a: a,
    "leaky_relu": lambda a: a,
    "floor": lambda a: a + 1,
    "sign": lambda a: 1.0,
    "detach": lambda a: a,
}
KINKED_PAIRS = ("maximum", "minimum", "where")


@dataclass
class Program:
    """A finished random program and a point to evaluate it at."""

    graph: Graph
    arrays: list[Array]
    seed: int

    @property
    def wrt(self) -> list[str]:
        """All inputs; all are float64."""
        return [spec.name for spec in self.graph.inputs]

    def like(self, graph: Graph, names: list[str], salt: int) -> list[Array]:
        """Random arrays in the shapes of outputs of `graph`."""
        rng = np.random.default_rng([self.seed, salt])
        types = {n: graph.type_of(i) for n, i in graph.outputs}
        return [frozen(rng.uniform(-1, 1, types[n].shape)) for n in names]


@dataclass
class _Growth:
    choose: Callable[[int], int]
    smooth: bool
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    values: list[tuple[Value, float]] = field(default_factory=list)

    def pick(self, fits: Callable[[Value], bool] = lambda v: True) -> tuple[Value, float] | None:
        """A value that fits, recent ones more often."""
        fitting = [(v, a) for v, a in self.values if fits(v)]
        if not fitting:
            return None
        return fitting[-1 - min(self.choose(len(fitting)), self.choose(len(fitting)))]

    def keep(self, value: Value, bound: float) -> None:
        if bound > LIMIT:
            value, bound = ops.find("tanh")()(value), 1.0
        self.values.append((value, bound))

    def step(self) -> None:
        kinds = [self.unary, self.unary, self.pair, self.pair, self.shape, self.contract]
        kinds[self.choose(len(kinds))]()

    def unary(self) -> None:
        table = SMOOTH if self.smooth else SMOOTH | KINKED
        names = sorted(table)
        name = names[self.choose(len(names))]
        x, a = self.pick() or self.values[-1]
        self.keep(ops.find(name)()(x), table[name](a))

    def pair(self) -> None:
        x, a = self.pick() or self.values[-1]
        # The other operand is broadcast to x, or x to it, or it is x itself.
        y, b = self.pick(lambda v: _stretches(v.shape, x.shape)) or (x, a)
        names = ["add", "sub", "mul", "div", "pow", *(() if self.smooth else KINKED_PAIRS)]
        name = names[self.choose(len(names))]
        if y.shape != x.shape:
            y = ops.find("broadcast_to").parse({"shape": list(x.shape)})(y)
        if name == "div":
            self.keep(x / (y * y + 1.0), a)
        elif name == "pow":
            base = ops.find("sigmoid")()(x) + 0.5
            self.keep(base ** ops.find("tanh")()(y), 2.0)
        elif name == "where":
            self.keep(ops.find("where")()(x < y, y * 2.0, x), max(a, 2 * b))
        else:
            result = ops.find(name)()(x, y)
            self.keep(result, {"add": a + b, "sub": a + b, "mul": a * b}.get(name, max(a, b)))

    def shape(self) -> None:
        found = self.pick(lambda v: v.rank > 0)
        if found is None:
            return self.unary()
        x, a = found
        axis = self.choose(x.rank)
        size = x.shape[axis]
        table: list[tuple[str, dict[str, Any], float]] = [
            ("reduce_sum", {"axis": axis}, a * size),
            ("reduce_mean", {"axis": axis, "keepdims": True}, a),
            ("logsumexp", {"axis": axis}, a + 1.2),
            ("transpose", {"perm": list(range(x.rank))[::-1]}, a),
            ("reshape", {"shape": [-1]}, a),
            ("flip", {"axes": axis}, a),
            ("cumsum", {"axis": axis}, a * size),
            ("pad", {"low": 1, "high": 0}, a),
            ("slice", {"starts": [0] * x.rank, "limits": [(s + 1) // 2 for s in x.shape]}, a),
            ("expand_dims", {"axis": axis}, a),
        ]
        name, attrs, bound = table[self.choose(len(table))]
        if ops.find(name).parse(attrs).typing(x.type).size > 18:
            name, attrs, bound = "reduce_sum", {"axis": axis}, a * size
        self.keep(ops.find(name).parse(attrs)(x), bound)
        return None

    def contract(self) -> None:
        found = self.pick(lambda v: v.rank == 2)
        if found is None:
            return self.unary()
        x, a = found
        other = self.pick(lambda v: v.rank == 2 and v.shape[0] == x.shape[1])
        if other is not None and self.choose(3):
            y, b = other
            self.keep(ops.find("matmul")()(x, y), a * b * x.shape[1])
            return None
        beside = self.pick(lambda v: v.rank == 2 and v.shape[0] == x.shape[0] and v.type.size < 10)
        y, b = beside or (x, a)
        if x.type.size < 10:
            self.keep(ops.find("concat").parse({"axis": 1})(x, y), max(a, b))
        return None


def _stretches(source: tuple[int, ...], target: tuple[int, ...]) -> bool:
    tail = target[len(target) - len(source) :]
    return len(source) <= len(target) and all(
        s in (1, t) for s, t in zip(source, tail, strict=True)
    )


@st.composite
def programs(draw: st.DrawFn, smooth: bool) -> Program:
    """A program of 10 to 30 nodes; `smooth` leaves out ops with kinks."""
    growth = _Growth(lambda n: draw(st.integers(0, n - 1)), smooth)
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    arrays = [frozen(rng.uniform(-1.5, 1.5, shape)) for shape in shapes]
    for i, shape in enumerate(shapes):
        spec = Input(f"x{i}", Type(shape, "float64"))
        growth.values.append((growth.builder.input(spec), 1.5))
    length = draw(st.integers(10, 30))
    while len(growth.builder.nodes) < length:
        growth.step()
    used = {i for node in growth.builder.nodes for i in node.inputs}
    loose = [v for v, _ in growth.values if v.id not in used]
    # Whatever no later node reads is summed up, so that no node is dead.
    total = ops.find("sum")()(loose[0])
    for value in loose[1:]:
        total = total + ops.find("sum")()(value) * 0.5
    return Program(growth.builder.graph([("y", total), ("z", loose[-1])]), arrays, seed)


@st.composite
def reductions(draw: st.DrawFn) -> Program:
    """A program over [3, 4, 2] that reduces along changing axes and reads the results at once.

    Every value is reduced along some axes, spread over the shape again, and combined with another:
    what may share a loop nest, and on which level, differs from one reduction to the next.
    """
    shape = (3, 4, 2)
    seed = draw(st.integers(0, 2**31))
    builder = GraphBuilder()
    full = [builder.input(Input(name, Type(shape, "float64"))) for name in ("x0", "x1")]
    small: list[Value] = []
    for _ in range(draw(st.integers(2, 6))):
        others = st.sampled_from(full)
        x = draw(others)
        axes = sorted(draw(st.sets(st.integers(0, 2), min_size=1)))
        name = draw(st.sampled_from(["reduce_sum", "reduce_max", "reduce_mean", "softmax"]))
        if name == "softmax":
            full.append(ops.find(name)()(x))
            continue
        y = ops.find(name).parse({"axis": axes, "keepdims": True})(x)
        small.append(y)
        y = ops.find("broadcast_to").parse({"shape": list(shape)})(y)
        if draw(st.booleans()):
            y = ops.find(draw(st.sampled_from(["add", "sub", "mul"])))()(y, draw(others))
        full.append(ops.find("tanh")()(y) if draw(st.booleans()) else y)
    outputs = [(f"y{i}", v) for i, v in enumerate([*small[-2:], full[-1]])]
    rng = np.random.default_rng(seed)
    arrays = [frozen(rng.uniform(-1.5, 1.5, shape)) for _ in range(2)]
    return Program(builder.graph(outputs), arrays, seed)
