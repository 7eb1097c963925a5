"""Runs as requests describe them: names, defaults, mapping, reductions, deadlines, NaN policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradwire_engine import (
    Engine,
    Entry,
    Graph,
    Handle,
    Input,
    RunSpec,
    TransformSpec,
    Type,
    errors,
)

from .support import ENGINE, grow, inputs, run

RNG = np.random.default_rng(7)


def model() -> Graph:
    """sum(tanh(w x + b)) with a second output."""
    return grow(
        inputs(x=(3,), w=(2, 3), b=(2,)),
        Entry("linear", (1, 2, 0)),
        Entry("tanh", (3,), name="h"),
        Entry("sum", (4,), name="y"),
        outputs={"y": 5, "h": 4},
    )


X, W, B = RNG.normal(size=3), RNG.normal(size=(2, 3)), RNG.normal(size=2)
GIVEN = {"inputs/x": X, "inputs/w": W, "inputs/b": B}


def gradients(x: Any, w: Any, b: Any, ct: float = 1.0) -> dict[str, Any]:
    h = np.tanh(w @ x + b)
    d = ct * (1 - h * h)
    return {"x": w.T @ d, "w": np.outer(d, x), "b": d}


def test_outputs_are_named_as_the_caller_wrote_them() -> None:
    results = run(model(), GIVEN, outputs=("h", 5, Handle(3, (2,)), "y"))
    assert list(results) == ["outputs/h", "outputs/5", "outputs/3", "outputs/y"]
    np.testing.assert_allclose(results["outputs/3"], W @ X + B)


def test_vjp_default_wrt_and_cotangent() -> None:
    results = run(model(), GIVEN, mode="vjp", outputs=("y",))
    assert list(results) == ["outputs/y", "gradients/x", "gradients/w", "gradients/b"]
    for name, expected in gradients(X, W, B).items():
        np.testing.assert_allclose(results[f"gradients/{name}"], expected)


def test_a_missing_cotangent_among_several_is_zero() -> None:
    both = {**GIVEN, "cotangents/y": np.array(2.0)}
    results = run(model(), both, mode="vjp", wrt=("x",))
    np.testing.assert_allclose(results["gradients/x"], gradients(X, W, B, 2.0)["x"])
    assert list(results) == ["outputs/y", "outputs/h", "gradients/x"]


def test_a_cotangent_may_name_any_value_which_then_counts_as_an_output() -> None:
    results = run(
        model(), {**GIVEN, "cotangents/3": np.ones(2)}, mode="vjp", outputs=("y",), wrt=("b",)
    )
    assert list(results) == ["outputs/y", "outputs/3", "gradients/b"]
    np.testing.assert_array_equal(results["gradients/b"], np.ones(2))


def test_jvp_missing_tangents_are_zero() -> None:
    results = run(model(), {**GIVEN, "tangents/b": np.ones(2)}, mode="jvp")
    np.testing.assert_allclose(results["tangents/y"], gradients(X, W, B)["b"].sum())
    nothing = run(model(), GIVEN, mode="jvp")
    np.testing.assert_array_equal(nothing["tangents/h"], np.zeros(2))


def test_inputs_that_nothing_depends_on_may_be_left_out() -> None:
    graph = grow(inputs(x=(2,), unused=(3,)), Entry("sum", (0,)))
    results = run(graph, {"inputs/x": np.ones(2)}, mode="vjp")
    np.testing.assert_array_equal(results["gradients/unused"], np.zeros(3))
    with pytest.raises(errors.InputShapeMismatch):
        run(graph, {"inputs/x": np.ones(2), "inputs/unused": np.ones(2)})


def test_default_output_is_the_last_node_and_no_node_is_no_output() -> None:
    graph = grow(inputs(x=(2,)), Entry("exp", (0,)), Entry("sum", (1,)))
    assert list(run(graph, {"inputs/x": np.ones(2)})) == ["outputs/2"]
    with pytest.raises(errors.NoOutput):
        run(grow(inputs(x=(2,))), {"inputs/x": np.ones(2)})
    named = grow(inputs(x=(2,)), outputs={"same": 0})
    np.testing.assert_array_equal(run(named, {"inputs/x": np.ones(2)})["outputs/same"], np.ones(2))


def test_results_never_alias_inputs_or_each_other() -> None:
    graph = grow(
        inputs(x=(2, 2)),
        Entry("reshape", (0,), {"shape": [4]}),
        Entry("exp", (0,)),
        Entry("reshape", (2,), {"shape": [4]}),
        outputs={"x": 0, "r": 1, "e": 2, "f": 3},
    )
    x = np.ones((2, 2))
    arrays = [x, *run(graph, {"inputs/x": x}).values()]
    for i, one in enumerate(arrays):
        for other in arrays[i + 1 :]:
            assert not np.shares_memory(one, other)


# -- mapping ---------------------------------------------------------------------------------------

BATCH = RNG.normal(size=(5, 3))


def per_sample() -> list[dict[str, Any]]:
    return [gradients(x, W, B) for x in BATCH]


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_mapped_gradients_are_stacked(axis: int) -> None:
    given = {**GIVEN, "inputs/x": np.moveaxis(BATCH, 0, axis)}
    results = run(model(), given, mode="vjp", outputs=("y",), in_axes={"inputs/x": axis})
    for name in ("x", "w", "b"):
        expected = np.stack([sample[name] for sample in per_sample()])
        np.testing.assert_allclose(results[f"gradients/{name}"], expected)
    assert results["outputs/y"].shape == (5,)


@pytest.mark.parametrize(("how", "reduce"), [("sum", np.sum), ("mean", np.mean)])
@pytest.mark.parametrize("wanted", [("w",), ("w", "b"), ("x", "w"), ("b", "x", "w")])
def test_reduced_gradients(how: str, reduce: Callable[..., Any], wanted: tuple[str, ...]) -> None:
    results = run(
        model(),
        {**GIVEN, "inputs/x": BATCH},
        mode="vjp",
        outputs=("y",),
        in_axes={"inputs/x": 0},
        reduce={f"gradients/{n}": how for n in wanted} | {"outputs/y": how},
    )
    assert list(results) == ["outputs/y", "gradients/x", "gradients/w", "gradients/b"]
    samples = per_sample()
    for name in ("x", "w", "b"):
        stack = np.stack([sample[name] for sample in samples])
        expected = reduce(stack, axis=0) if name in wanted else stack
        np.testing.assert_allclose(results[f"gradients/{name}"], expected)
    y = np.tanh(BATCH @ W.T + B).sum(axis=1)
    np.testing.assert_allclose(results["outputs/y"], reduce(y))


def test_reduced_gradients_never_hold_the_stack() -> None:
    graph = grow(
        inputs(x=(100,), w=(100, 100)),
        Entry("reshape", (0,), {"shape": [100, 1]}),
        Entry("matmul", (1, 2)),
        Entry("sum", (3,)),
    )
    batch = RNG.normal(size=(400, 100))
    stack_bytes = 400 * 100 * 100 * 8
    small = Engine(memory_limit=stack_bytes // 4, check_types=True)
    stacked = RunSpec(mode="vjp", inputs=("x", "w"), wrt=("w",), in_axes={"inputs/x": 0}, reduce={})
    given = {"inputs/x": batch, "inputs/w": np.ones((100, 100))}
    reduced = small.prepare(graph, replace(stacked, reduce={"gradients/w": "sum"}))
    result = reduced.execute(given).results["gradients/w"]
    np.testing.assert_allclose(result, np.tile(batch.sum(0), (100, 1)))
    with pytest.raises(errors.MemoryLimit):
        small.prepare(graph, stacked).execute(given)


def test_many_cotangents_and_many_tangents_in_one_run() -> None:
    cts = RNG.normal(size=(4, 2))
    results = run(
        model(),
        {**GIVEN, "cotangents/h": cts},
        mode="vjp",
        outputs=("h",),
        wrt=("b",),
        in_axes={"cotangents/h": 0},
    )
    h = np.tanh(W @ X + B)
    np.testing.assert_allclose(results["gradients/b"], cts * (1 - h * h))
    summed = run(
        model(),
        {**GIVEN, "cotangents/h": cts.T},
        mode="vjp",
        outputs=("h",),
        wrt=("b",),
        in_axes={"cotangents/h": 1},
        reduce={"gradients/b": "sum"},
    )
    np.testing.assert_allclose(summed["gradients/b"], (cts * (1 - h * h)).sum(0))
    tangents = RNG.normal(size=(4, 2))
    forward = run(model(), {**GIVEN, "tangents/b": tangents}, mode="jvp", in_axes={"tangents/b": 0})
    np.testing.assert_allclose(forward["tangents/h"], tangents * (1 - h * h))


def test_mapping_over_one_and_over_none() -> None:
    for count in (0, 1):
        given = {**GIVEN, "inputs/x": BATCH[:count]}
        results = run(model(), given, mode="vjp", outputs=("y",), in_axes={"inputs/x": 0})
        assert results["gradients/w"].shape == (count, 2, 3)


def test_transforms_on_a_run_give_a_hessian_vector_product() -> None:
    graph = grow(inputs(x=(3,)), Entry("exp", (0,)), Entry("sum", (1,), name="y"))
    results = run(
        graph,
        {
            "inputs/x": X,
            "inputs/cotangent.y": np.array(1.0),
            "inputs/tangent.x": np.array([1.0, 2.0, 3.0]),
        },
        transforms=(TransformSpec("vjp"), TransformSpec("jvp", wrt=("x",))),
    )
    np.testing.assert_allclose(
        results["outputs/tangent.gradient.x"], np.exp(X) * np.array([1.0, 2.0, 3.0])
    )


def test_linearize_on_a_run_and_as_a_transform_agree() -> None:
    dx = RNG.normal(size=3)
    steps = (TransformSpec("linearize", inputs=("x", "w", "b"), wrt=("x",), outputs=("y",)),)
    point = {f"transforms/0/{path}": array for path, array in GIVEN.items()}
    spec = RunSpec(inputs=("tangent.x",), transforms=steps)
    prepared = ENGINE.prepare(model(), spec)
    once = prepared.execute({**point, "inputs/tangent.x": dx}).results["outputs/tangent.y"]
    np.testing.assert_allclose(once, gradients(X, W, B)["x"] @ dx)
    graph = ENGINE.transform(model(), steps[0], GIVEN)
    again = run(graph, {"inputs/tangent.x": dx})["outputs/tangent.y"]
    np.testing.assert_array_equal(once, again)
    pullback = run(graph, {"inputs/tangent.x": dx}, mode="vjp")["gradients/tangent.x"]
    np.testing.assert_allclose(pullback, gradients(X, W, B)["x"])


# -- refusals --------------------------------------------------------------------------------------

MAPPED = {"in_axes": {"inputs/x": 0}}
REFUSALS: list[tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = [
    ({"mode": "backward"}, {}, "invalid_option", {"path": "run/mode"}),
    ({"nan_policy": "ignore"}, {}, "invalid_option", {"path": "nan_policy"}),
    ({"tier": "fast"}, {}, "invalid_option", {"path": "tier"}),
    ({"tier": "compiled"}, {}, "compile_failed", {}),
    ({"deadline_ms": -1.0}, {}, "invalid_option", {"path": "deadline_ms"}),
    ({"outputs": ("z",)}, {}, "unknown_name", {"name": "z"}),
    ({"outputs": (77,)}, {}, "var_out_of_bounds", {"id": 77, "ctx_len": 6}),
    ({"outputs": (Handle(4, (7,)),)}, {}, "var_shape_mismatch", {"id": 4}),
    ({"mode": "vjp", "wrt": ("z",)}, {}, "unknown_input", {"input": "z"}),
    ({"mode": "vjp"}, {}, "missing_cotangent", {"outputs": ["y", "h"]}),
    ({"mode": "vjp"}, {"cotangents/z": 1.0}, "unknown_name", {"name": "z"}),
    ({"mode": "vjp"}, {"cotangents/99": 1.0}, "var_out_of_bounds", {"id": 99}),
    ({"mode": "vjp"}, {"cotangents/y": np.ones(2)}, "cotangent_shape_mismatch", {"output": "y"}),
    (
        {"mode": "vjp"},
        {"cotangents/y": np.float32(1)},
        "cotangent_dtype_mismatch",
        {"expected": "float64", "actual": "float32"},
    ),
    ({"mode": "jvp"}, {"tangents/z": 1.0}, "unknown_input", {"input": "z"}),
    ({"mode": "jvp"}, {"tangents/x": np.ones(2)}, "tangent_shape_mismatch", {"input": "x"}),
    (
        {"mode": "jvp"},
        {"tangents/x": np.ones(3, np.float32)},
        "tangent_dtype_mismatch",
        {"input": "x"},
    ),
    ({}, {"inputs/zz": 1.0}, "unknown_input", {"input": "zz"}),
    ({}, {"inputs/x": np.ones(4)}, "input_shape_mismatch", {"expected": [3], "actual": [4]}),
    ({}, {"inputs/x": np.ones(3, np.int64)}, "input_dtype_mismatch", {"actual": "int64"}),
    ({"reduce": {"outputs/y": "sum"}}, {}, "invalid_option", {"path": "reduce"}),
    ({**MAPPED, "reduce": {"outputs/y": "max"}}, {}, "invalid_option", {"value": "max"}),
    (
        {**MAPPED, "reduce": {"outputs/z": "sum"}},
        {},
        "invalid_option",
        {"path": "reduce/outputs/z"},
    ),
    ({"in_axes": {"inputs/x": 2}}, {}, "invalid_option", {"path": "in_axes/inputs/x", "value": 2}),
    ({"in_axes": {"inputs/z": 0}}, {}, "unknown_input", {"input": "z"}),
    ({"in_axes": {"x": 0}}, {}, "invalid_option", {"path": "in_axes/x"}),
    (MAPPED, {}, "input_shape_mismatch", {"expected": ["n", 3], "actual": [3]}),
    (
        {"in_axes": {"inputs/x": 0, "inputs/b": 0}},
        {"inputs/x": np.ones((5, 3)), "inputs/b": np.ones((4, 2))},
        "input_shape_mismatch",
        {"input": "b", "expected": [5, 2], "actual": [4, 2]},
    ),
    ({"transforms": (TransformSpec("grad"),)}, {}, "invalid_option", {"value": "grad"}),
    ({"transforms": (TransformSpec("vmap"),)}, {}, "invalid_option", {}),
    (
        {"transforms": (TransformSpec("vmap", axis_size=2, in_axes={"x": 3}),)},
        {},
        "invalid_option",
        {"path": "transforms/0/in_axes/x"},
    ),
]


@pytest.mark.parametrize(("options", "tensors", "code", "facts"), REFUSALS)
def test_refused_runs(
    options: dict[str, Any], tensors: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    with pytest.raises(errors.EngineError) as caught:
        run(model(), {**GIVEN, **tensors}, **options)
    found = caught.value.facts()
    assert (caught.value.code, {k: found[k] for k in facts}) == (code, facts)
    assert str(caught.value)


def test_missing_inputs_are_named() -> None:
    with pytest.raises(errors.MissingInput) as caught:
        run(model(), {"inputs/x": X, "inputs/b": B})
    assert caught.value.input == "w"


def test_what_carries_no_derivative_is_refused() -> None:
    specs = [
        Input("x", Type((3,), "float64")),
        Input("fixed", Type((3,), "float64"), differentiable=False),
        Input("i", Type((3,), "int64"), differentiable=False),
    ]
    graph = grow(specs, Entry("add", (0, 1)), Entry("argmax", (0,), {"axis": 0}))
    given = {"inputs/x": X, "inputs/fixed": X, "inputs/i": np.arange(3)}
    cases: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ({"mode": "vjp", "wrt": ("i",), "outputs": (3,)}, {}, {"input": "i", "dtype": "int64"}),
        ({"mode": "vjp", "wrt": ("fixed",), "outputs": (3,)}, {}, {"input": "fixed"}),
        ({"mode": "jvp"}, {"tangents/i": np.ones(3)}, {"input": "i"}),
        ({"mode": "vjp"}, {"cotangents/4": np.array(1)}, {"output": "4", "dtype": "int64"}),
        ({"mode": "vjp"}, {}, {"output": "4"}),
    ]
    for options, extra, facts in cases:
        with pytest.raises(errors.NotDifferentiable) as caught:
            run(graph, {**given, **extra}, **options)
        assert facts.items() <= caught.value.facts().items()
    assert "gradients/fixed" not in run(
        graph, {**given, "cotangents/3": X}, mode="vjp", outputs=(3,)
    )


def test_deadline() -> None:
    graph = grow(inputs(x=(200, 200)), *[Entry("matmul", (k, k)) for k in range(200)])
    with pytest.raises(errors.DeadlineExceeded) as caught:
        run(graph, {"inputs/x": np.eye(200)}, deadline_ms=1.0)
    assert caught.value.deadline_ms == 1.0
    with pytest.raises(errors.DeadlineExceeded):
        run(graph, {"inputs/x": np.eye(200)}, deadline_ms=0)


# -- NaN policy ------------------------------------------------------------------------------------


def fault(graph: Graph, tensors: dict[str, Any], **options: Any) -> dict[str, Any]:
    with pytest.raises(errors.NonFinite) as caught:
        run(graph, tensors, nan_policy="error", **options)
    return caught.value.facts()


def test_nan_policy_names_the_users_node_not_its_parts() -> None:
    graph = grow(
        inputs(x=(2, 2)),
        Entry("log", (0,), name="l", source="model.py:3"),
        Entry("softmax", (1,)),
        Entry("sum", (2,)),
    )
    x = np.array([[1.0, 2.0], [0.0, 1.0]])
    assert fault(graph, {"inputs/x": x}) == {
        "source": "model.py:3",
        "stage": "forward",
        "node": 1,
        "name": "l",
        "op": "log",
        "index": 2,
        "value": "-Infinity",
    }
    bad = fault(graph, {"inputs/x": np.array([[1.0, np.nan], [0.0, 1.0]])})
    assert (bad["stage"], bad["node"], bad["index"], bad["value"]) == ("input", 0, 1, "NaN")


def test_nan_policy_walks_cotangents_down_and_tangents_up() -> None:
    graph = grow(
        inputs(x=(2,)), Entry("sqrt", (0,)), Entry("scale", (1,), {"c": 2}), Entry("sum", (2,))
    )
    x = np.array([4.0, 0.0])
    backward = fault(graph, {"inputs/x": x}, mode="vjp")
    assert (backward["stage"], backward["node"], backward["index"]) == ("cotangent", 0, 1)
    seeded = fault(graph, {"inputs/x": x, "cotangents/3": np.array(np.inf)}, mode="vjp")
    assert (seeded["stage"], seeded["node"]) == ("cotangent", 3)
    forward = fault(graph, {"inputs/x": x, "tangents/x": np.ones(2)}, mode="jvp")
    assert (forward["stage"], forward["node"], forward["index"]) == ("tangent", 1, 1)
    given = fault(graph, {"inputs/x": x, "tangents/x": np.array([np.nan, 0])}, mode="jvp")
    assert (given["stage"], given["node"], given["index"]) == ("tangent", 0, 0)


def test_nan_policy_names_the_sample() -> None:
    graph = grow(inputs(x=(2,)), Entry("log", (0,)), Entry("sum", (1,)))
    batch = np.ones((4, 2))
    batch[2, 1] = 0
    found = fault(graph, {"inputs/x": batch}, in_axes={"inputs/x": 0}, mode="vjp")
    assert (found["stage"], found["sample"], found["node"], found["index"]) == ("forward", 2, 1, 1)
    turned = fault(graph, {"inputs/x": np.where(batch == 0, np.nan, 1).T}, in_axes={"inputs/x": 1})
    assert (turned["stage"], turned["sample"], turned["index"]) == ("input", 2, 1)


def test_nan_policy_changes_nothing_when_all_is_finite() -> None:
    for options in ({}, {"mode": "vjp", "outputs": ("y",)}, {"mode": "jvp"}):
        plain, watched = (
            run(model(), GIVEN, nan_policy=policy, **options) for policy in ("propagate", "error")
        )
        assert list(plain) == list(watched)
        for path, array in plain.items():
            np.testing.assert_array_equal(array, watched[path])


def test_errors_survive_pickling() -> None:
    import pickle

    error = errors.ShapeMismatch(op="add", operand="b", expected=[3], actual=[4])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.facts(), str(again)) == (type(error), error.facts(), str(error))


def test_every_error_has_a_code_of_its_own_and_a_docstring() -> None:
    found = errors.catalogue()
    assert all(cls.__doc__ for cls in found.values())
    assert len({cls.code for cls in found.values()}) == len(found)


def test_every_error_about_a_node_says_who_wrote_it() -> None:
    graph = grow(
        inputs(x=(3,)),
        Entry("tanh", (0,), name="y", source="model.py:7"),
        Entry("argmax", (0,), {"axis": 0}, name="top", source="model.py:8"),
    )
    given = {"inputs/x": X}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"mode": "vjp"}, {"cotangents/y": np.ones(2)}, "model.py:7"),
        ({"mode": "vjp"}, {"cotangents/y": np.ones(3, np.float32)}, "model.py:7"),
        ({"mode": "vjp"}, {"cotangents/top": np.array(1)}, "model.py:8"),
        ({"mode": "jvp", "outputs": ("top",)}, {}, "model.py:8"),
        ({"outputs": (Handle(1, (4,)),)}, {}, "model.py:7"),
    ]
    for options, tensors, source in cases:
        with pytest.raises(errors.EngineError) as caught:
            run(graph, {**given, **tensors}, **options)
        assert caught.value.facts()["source"] == source
        assert source in str(caught.value)


def test_no_text_of_a_caller_passes_for_another_graph() -> None:
    """Preparations are found by content: sources and names cannot be made to look like nodes."""

    def made(first: str, second: str, source: str, next_source: str) -> Graph:
        return grow(
            inputs(x=(3,)),
            Entry(first, (0,), source=source),
            Entry(second, (1,), source=next_source),
        )

    middle = str(Type((3,), "float64"))
    forged = "a('tanh',)(0,)" + middle + ";None:b"
    one = made("tanh", "neg", "a", "b('exp',)(0,)" + middle + ";None:c")
    other = made("exp", "neg", forged, "c")
    given = {"inputs/x": X}
    np.testing.assert_array_equal(run(one, given)["outputs/2"], -np.tanh(X))
    np.testing.assert_array_equal(run(other, given)["outputs/2"], -np.exp(X))
    assert one.content_hash != other.content_hash
