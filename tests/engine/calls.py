"""One op at a time, through the builder and the interpreter: values, gradients and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwire_engine import Builder, Entry, Graph, Input, Type, errors, transform
from gradwire_engine.ir import type_of
from gradwire_engine.runtime import interpret

Array = np.ndarray[Any, Any]


def graph_of(op: str, *operands: Array, **attrs: Any) -> Graph:
    """A graph of one op, an input for each operand (``x0``, ``x1`` ...)."""
    builder = Builder([Input(f"x{i}", type_of(a)) for i, a in enumerate(operands)])
    builder.append([Entry(op, tuple(range(len(operands))), attrs)])
    return builder.graph()


def evaluate(op: str, *operands: Any, **attrs: Any) -> Array:
    """The op's value."""
    arrays = [np.asarray(a) for a in operands]
    (result,) = interpret(graph_of(op, *arrays, **attrs), arrays)
    return result


def gradients(op: str, *operands: Any, ct: Any, **attrs: Any) -> list[Array]:
    """The gradients of the float operands for a cotangent of the result."""
    arrays = [np.asarray(a) for a in operands]
    wrt = [f"x{i}" for i, a in enumerate(arrays) if a.dtype.kind == "f"]
    pulled = transform.vjp(graph_of(op, *arrays, **attrs), wrt)
    return interpret(pulled, [*arrays, np.asarray(ct)])[1:]


def refusal(op: str, *types: Type, **attrs: Any) -> errors.EngineError:
    """The error that appending the op to values of these types raises."""
    builder = Builder([Input(f"x{i}", t) for i, t in enumerate(types)])
    with pytest.raises(errors.EngineError) as caught:
        builder.append([Entry(op, tuple(range(len(types))), attrs)])
    assert builder.version == 0
    return caught.value


def check_refusal(
    op: str, types: tuple[Type, ...], attrs: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    """The op refuses with this code, and these facts among its facts."""
    error = refusal(op, *types, **attrs)
    assert error.code == code
    found = error.facts()
    assert {name: found.get(name) for name in facts} == facts
    assert found["op"] == op


def f64(*shape: int) -> Type:
    """A float64 type."""
    return Type(shape, "float64")


def i64(*shape: int) -> Type:
    """An int64 type."""
    return Type(shape, "int64")
