"""Rows for the elementwise ops, away from their kinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .case import Case, Draw

S = (2, 3)
BOOL = Draw(S, dtype="bool")
# Two operands on these lattices are never closer than 0.15 to each other.
EVEN, ODD = Draw(S, lattice=(0.5, 0.0)), Draw(S, lattice=(0.5, 0.25))


def _unary(
    op: str,
    reference: Callable[..., Any],
    *,
    low: float = -2.0,
    high: float = 2.0,
    kinks: tuple[float, ...] = (),
    integers: bool = False,
    order: int = 2,
) -> tuple[Case, ...]:
    def at(shape: tuple[int, ...], label: str) -> Case:
        operand = Draw(shape, low, high, kinks=kinks)
        return Case(op, (operand,), {}, reference, label, order, integers)

    return at(S, ""), at((), "scalar"), at((0, 2), "empty")


def _binary(
    op: str, reference: Callable[..., Any], a: Draw, b: Draw, *, integers: bool = False
) -> tuple[Case, ...]:
    def at(shape: tuple[int, ...], label: str) -> Case:
        operands = (replace(a, shape=shape), replace(b, shape=shape))
        return Case(op, operands, reference=reference, label=label, integers=integers)

    return at(S, ""), at((), "scalar"), at((2, 0), "empty")


UNARY = (
    *_unary("neg", torch.neg, integers=True),
    *_unary("exp", torch.exp),
    *_unary("log", torch.log, low=0.3, high=3.0),
    *_unary("log1p", torch.log1p, low=-0.7, high=3.0),
    *_unary("expm1", torch.expm1),
    *_unary("sqrt", torch.sqrt, low=0.3, high=3.0),
    *_unary("rsqrt", torch.rsqrt, low=0.3, high=3.0),
    *_unary("inv", torch.reciprocal, low=0.4, high=2.0),
    *_unary("sin", torch.sin, low=-7.0, high=7.0),
    *_unary("cos", torch.cos, low=-7.0, high=7.0),
    *_unary("tan", torch.tan, low=-1.2, high=1.2),
    *_unary("tanh", torch.tanh),
    *_unary("sigmoid", torch.sigmoid, low=-4.0, high=4.0),
    *_unary("softplus", lambda x: torch.logaddexp(x, torch.zeros_like(x)), low=-4.0, high=4.0),
    *_unary("erf", torch.erf),
    *_unary("erfc", torch.erfc),
    *_unary("relu", torch.relu, kinks=(0.0,)),
    *_unary("abs", torch.abs, kinks=(0.0,), integers=True),
    *_unary("square", torch.square, integers=True),
    *_unary("sign", torch.sign, kinks=(0.0,), integers=True),
    *_unary("floor", torch.floor, kinks=(-2.0, -1.0, 0.0, 1.0, 2.0)),
    *_unary("safe_log", lambda x: torch.log(x + 1e-6), low=0.3, high=3.0),
    *_unary("is_finite", torch.isfinite),
    *_unary("detach", torch.detach, order=0),
)

ATTRIBUTES = (
    Case("inv", (Draw(S, -2.0, -0.4),), reference=torch.reciprocal, label="negative"),
    Case("detach", (Draw(S, -3, 3, dtype="int64"),), reference=torch.detach, label="int64"),
    Case("detach", (BOOL,), reference=torch.detach, label="bool"),
    Case("sigmoid", (Draw(S, 5, 30),), reference=torch.sigmoid, label="large"),
    Case("sigmoid", (Draw(S, -30, -5),), reference=torch.sigmoid, label="small"),
    Case(
        "safe_log",
        (Draw(S, 0.0, 1.0),),
        {"eps": 0.5},
        reference=lambda x: torch.log(x + 0.5),
        label="eps",
    ),
    Case("scale", (Draw(S),), {"c": -1.5}, reference=lambda x: -1.5 * x),
    Case("scale", (Draw(()),), {"c": 0.0}, reference=lambda x: 0.0 * x, label="zero"),
    Case("scale", (Draw(S),), {"c": 3}, reference=lambda x: 3 * x, label="whole", integers=True),
    Case(
        "clamp",
        (Draw(S, kinks=(-0.5, 1.0)),),
        {"min": -0.5, "max": 1.0},
        reference=lambda x: x.clamp(-0.5, 1.0),
    ),
    Case(
        "clamp",
        (Draw(S, kinks=(0.0,)),),
        {"min": 0},
        reference=lambda x: x.clamp(min=0.0),
        label="min",
        integers=True,
    ),
    Case(
        "clamp",
        (Draw(S, kinks=(0.5,)),),
        {"max": 0.5},
        reference=lambda x: x.clamp(max=0.5),
        label="max",
    ),
    Case("clamp", (Draw(S),), reference=lambda x: x.clone(), label="unbounded", integers=True),
    Case(
        "clamp",
        (Draw((3, 3), -5, 5),),
        {"min": -2, "max": 2},
        reference=lambda x: x.clamp(-2, 2),
        label="whole",
        order=0,
        integers=True,
    ),
    *(
        Case(
            "cast",
            (Draw(S, bounds[0], bounds[1], source),),
            {"dtype": target},
            ref,
            f"{source}-{target}",
        )
        for source, bounds, target, ref in (
            ("float", (-2.0, 2.0), "float64", lambda x: x.to(torch.float64)),
            ("float", (-2.0, 2.0), "int64", lambda x: x.to(torch.int64)),
            ("float", (-2.0, 2.0), "bool", lambda x: x.to(torch.bool)),
            ("int64", (-3, 3), "float32", lambda x: x.to(torch.float32)),
            ("int64", (-3, 3), "int64", lambda x: x.clone()),
            ("int64", (-3, 3), "bool", lambda x: x.to(torch.bool)),
            ("bool", (0, 1), "float64", lambda x: x.to(torch.float64)),
            ("bool", (0, 1), "int64", lambda x: x.to(torch.int64)),
        )
    ),
    # Rounding to float32 hides the differences of float64, so no numerical order here.
    Case(
        "cast",
        (Draw(S),),
        {"dtype": "float32"},
        reference=lambda x: x.to(torch.float32),
        label="float-float32",
        order=0,
    ),
)

BINARY = (
    *_binary("add", torch.add, Draw(S), Draw(S), integers=True),
    *_binary("sub", torch.sub, Draw(S), Draw(S), integers=True),
    *_binary("mul", torch.mul, Draw(S), Draw(S), integers=True),
    *_binary("div", torch.div, Draw(S), Draw(S, 0.5, 2.0)),
    *_binary("pow", torch.pow, Draw(S, 0.3, 2.0), Draw(S)),
    *_binary("atan2", torch.atan2, Draw(S, 0.3, 2.0), Draw(S)),
    *_binary("maximum", torch.maximum, EVEN, ODD, integers=True),
    *_binary("minimum", torch.minimum, EVEN, ODD, integers=True),
    *_binary("equal", torch.eq, EVEN, ODD, integers=True),
    *_binary("not_equal", torch.ne, EVEN, ODD, integers=True),
    *_binary("less", torch.lt, EVEN, ODD, integers=True),
    *_binary("less_equal", torch.le, EVEN, ODD, integers=True),
    *_binary("greater", torch.gt, EVEN, ODD, integers=True),
    *_binary("greater_equal", torch.ge, EVEN, ODD, integers=True),
    *_binary("logical_and", torch.logical_and, BOOL, BOOL),
    *_binary("logical_or", torch.logical_or, BOOL, BOOL),
    Case("div", (Draw(S), Draw(S, -2.0, -0.5)), reference=torch.div, label="negative"),
    Case("atan2", (Draw(S, -2.0, -0.3), Draw(S)), reference=torch.atan2, label="below"),
)

OTHERS = (
    Case("logical_not", (BOOL,), reference=torch.logical_not),
    Case("logical_not", (Draw((), dtype="bool"),), reference=torch.logical_not, label="scalar"),
    Case("where", (BOOL, Draw(S), Draw(S)), reference=torch.where),
    Case(
        "where", (Draw((), dtype="bool"), Draw(()), Draw(())), reference=torch.where, label="scalar"
    ),
    Case(
        "where",
        (BOOL, Draw(S, -3, 3, dtype="int64"), Draw(S, -3, 3, dtype="int64")),
        reference=torch.where,
        label="int64",
    ),
    Case("where", (BOOL, BOOL, BOOL), reference=torch.where, label="bool"),
)

CASES: tuple[Case, ...] = (*UNARY, *ATTRIBUTES, *BINARY, *OTHERS)
