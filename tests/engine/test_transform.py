"""Transforms as graphs: what they print, how they name and tag, and that they compose."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_engine import Entry, Graph, Input, Type, errors, passes, transform
from gradwire_engine.ir import Value
from gradwire_engine.ops.base import Array, Op
from gradwire_engine.runtime import interpret
from gradwire_engine.verify import Malformed, verify

from .support import ENGINE, grow, inputs


def tanh_sum() -> Graph:
    return grow(
        inputs(x=(3,), w=(3,)),
        Entry("mul", (0, 1)),
        Entry("tanh", (2,), name="h"),
        Entry("sum", (3,), name="y"),
    )


def test_vjp_prints_as_a_person_would_write_it() -> None:
    derived = passes.tidy(transform.vjp(tanh_sum(), ["x"]))
    assert str(derived) == (
        "graph(%0 x: float64[3], %1 w: float64[3], %2 cotangent.y: float64[])\n"
        "  %3 = mul(%0, %1) : float64[3]\n"
        "  %4 = tanh(%3) : float64[3]    # h\n"
        "  %5 = mul(%4, %4) : float64[3]\n"
        "  %6 = const() {value=float64 1.0} : float64[]\n"
        "  %7 = broadcast_to(%6) {shape=[3]} : float64[3]\n"
        "  %8 = sub(%7, %5) : float64[3]\n"
        "  %9 = reduce_sum(%4) : float64[]    # y\n"
        "  %10 = broadcast_to(%2) {shape=[3] axes=[]} : float64[3]\n"
        "  %11 = mul(%10, %8) : float64[3]\n"
        "  %12 = mul(%11, %1) : float64[3]\n"
        "  return y=%9, gradient.x=%12"
    )


def test_derived_nodes_say_where_they_come_from() -> None:
    derived = transform.vjp(tanh_sum(), ["x"])
    roles = {(n.origin.node, n.origin.role) for n in derived.nodes if n.origin is not None}
    assert {(2, "primal"), (3, "primal"), (4, "primal"), (3, "cotangent")} <= roles
    assert all(n.origin is not None for n in derived.nodes)


def test_names_step_aside() -> None:
    twice = transform.vjp(transform.vjp(tanh_sum(), ["x"]), ["x", "cotangent.y"])
    assert [i.name for i in twice.inputs] == [
        "x",
        "w",
        "cotangent.y",
        "cotangent2.y",
        "cotangent.gradient.x",
    ]
    assert [name for name, _ in twice.outputs] == [
        "y",
        "gradient.x",
        "gradient2.x",
        "gradient.cotangent.y",
    ]


def test_unreached_inputs_get_exact_zeros() -> None:
    graph = grow(inputs(x=(2,), unused=(3,)), Entry("log", (0,)), Entry("sum", (2,)))
    derived = transform.vjp(graph, ["x", "unused"])
    with np.errstate(all="raise"):
        _, dx, dunused = interpret(derived, [np.zeros(2), np.full(3, np.nan), np.array(1.0)])
    assert np.isinf(dx).all()
    assert (dunused == 0).all()


def test_hessian_of_a_quadratic_by_vmap_of_jvp_of_vjp() -> None:
    graph = grow(inputs(x=(3,)), Entry("square", (0,)), Entry("mul", (1, 0)), Entry("sum", (2,)))
    hvp = transform.jvp(transform.vjp(graph, ["x"]), ["x"])
    names = [spec.name for spec in hvp.inputs]
    hessian = transform.vmap(hvp, 3, {names[2]: 0})
    x = np.array([1.0, 2.0, 3.0])
    results = interpret(verify(hessian), [x, np.array(1.0), np.eye(3)])
    np.testing.assert_allclose(results[-1], np.diag(6 * x))


def test_linearize_runs_no_forward_pass_again() -> None:
    graph = tanh_sum()
    split = transform.linearize(graph, ["x"])
    x, w, dx = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0, 2.0])
    residuals = interpret(split.residual, [x, w])
    (linear,) = interpret(split.tangent, [*residuals, dx])
    *_, direct = interpret(transform.jvp(graph, ["x"]), [x, w, dx])
    np.testing.assert_allclose(linear, direct, rtol=1e-14)
    assert "tanh" not in str(split.tangent)
    pullback = transform.vjp(split.tangent, [split.tangent.inputs[-1].name])
    *_, gradient = interpret(pullback, [*residuals, np.zeros(3), np.array(1.0)])
    np.testing.assert_allclose(gradient, (1 - np.tanh(x * w) ** 2) * w)


def test_vmap_repeats_what_depends_on_no_mapped_input() -> None:
    graph = grow(
        inputs(x=(2,), w=(2,)), Entry("exp", (1,)), Entry("add", (0, 1)), outputs={"e": 2, "s": 3}
    )
    mapped = transform.vmap(graph, 4, {"x": -1})
    x, w = np.arange(8.0).reshape(2, 4), np.array([0.5, 1.5])
    e, s = interpret(verify(mapped), [x, w])
    np.testing.assert_array_equal(e, np.broadcast_to(np.exp(w), (4, 2)))
    np.testing.assert_array_equal(s, x.T + w)


def test_integer_outputs_carry_no_derivative() -> None:
    graph = grow(
        inputs(x=(3,)),
        Entry("argmax", (0,), {"axis": 0}),
        Entry("sum", (0,)),
        outputs={"i": 1, "s": 2},
    )
    forward = transform.jvp(graph, ["x"])
    assert [n for n, _ in forward.outputs] == ["i", "s", "tangent.s"]
    backward = transform.vjp(graph, ["x"])
    assert [i.name for i in backward.inputs] == ["x", "cotangent.s"]


class Halve(Op, inputs=("x",), reverse_only=True, private=True):
    """x / 2, known in reverse only; it exists to be refused."""

    def typing(self, x: Type) -> Type:
        return x

    def numpy(self, x: Array) -> Array:
        return x * 0.5

    def vjp_x(self, ct: Value, y: Value, x: Value) -> Value:
        return ct * 0.5


def reverse_only_graph() -> Graph:
    from gradwire_engine import Builder

    builder = Builder(inputs(x=(2,)))
    builder.push(Halve(), [0])
    builder.append([Entry("sum", (1,))])
    return builder.graph()


def test_forward_mode_is_refused_before_it_runs() -> None:
    graph = reverse_only_graph()
    for attempt in (transform.jvp, transform.linearize):
        with pytest.raises(errors.JvpUnavailable) as caught:
            attempt(graph, ["x"])
        assert caught.value.facts() == {"ops": ["halve"], "nodes": [1]}
    assert ENGINE.jvp_availability(graph) == {"available": False, "reverse_only": ["halve"]}


def test_reverse_mode_works_all_the_same() -> None:
    *_, gradient = interpret(
        transform.vjp(reverse_only_graph(), ["x"]), [np.ones(2), np.array(3.0)]
    )
    np.testing.assert_array_equal(gradient, [1.5, 1.5])


def test_the_catalogue_has_no_reverse_only_op() -> None:
    assert ENGINE.reverse_only_ops() == ()
    assert ENGINE.op_jvp_availability("logSoftmax") == "implemented"
    with pytest.raises(errors.UnknownOp):
        ENGINE.op_jvp_availability("nope")


def test_verify_finds_wrong_types_and_forward_references() -> None:
    graph = tanh_sum()
    node = graph.nodes[0]
    wrong = type(node)(node.op, node.inputs, Type((4,), "float64"))
    with pytest.raises(Malformed, match="typing says"):
        verify(Graph(graph.inputs, (wrong,), ()))
    forward = type(node)(node.op, (0, 2), node.type)
    with pytest.raises(Malformed, match="forward"):
        verify(Graph(graph.inputs, (forward,), ()))
    with pytest.raises(Malformed, match="two values"):
        verify(Graph((Input("a", Type(())), Input("a", Type(()))), (), ()))
