"""How large graphs may get: by appending, by transforms, and while they run."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from gradwire_engine import Builder, Engine, Entry, Input, RunSpec, TransformSpec, Type, errors
from gradwire_engine import engine as engine_module
from gradwire_engine.limits import Limits
from gradwire_engine.ops.attributes import Literal
from gradwire_engine.ops.sources import Const
from gradwire_engine.passes import optimize

from .support import ENGINE, grow, inputs, run

SMALL = Engine(memory_limit=2**20, check_types=True)
X = np.array([1.0, 2.0, 3.0])


def refused(
    kind: type[errors.EngineError], entry: Entry, **shapes: tuple[int, ...]
) -> dict[str, Any]:
    """The facts of the refusal to append an entry."""
    with pytest.raises(kind) as caught:
        Builder(inputs("float32", **shapes), memory_limit=2**20).append([entry])
    return caught.value.facts()


# -- values ----------------------------------------------------------------------------------------


def test_an_empty_value_still_has_to_be_addressable() -> None:
    """NumPy cannot hold [2^62, 0], whose other sizes alone are beyond any memory."""
    with pytest.raises(errors.MemoryLimit) as caught:
        Builder(inputs("float32", x=(2**62, 0)))
    assert caught.value.actual == 2**64
    Builder(inputs("float32", x=(2**40, 0)), memory_limit=1000)
    entry = Entry("broadcast_to", (0,), {"shape": [2**62, 0]})
    assert refused(errors.MemoryLimit, entry, x=(0,))["actual"] == 2**64


@pytest.mark.parametrize(
    "entry",
    [
        Entry("expand_dims", (0,), {"axis": 0}),
        Entry("stack", (0,), {"axis": 0}),
        Entry("dot_general", (0, 0)),
        Entry("unfold", (0,), {"kernel": 1}),
    ],
)
def test_no_op_goes_beyond_32_axes(entry: Entry) -> None:
    facts = refused(errors.InvalidShape, entry, x=(1,) * 32)
    assert facts["path"] == "nodes"
    assert len(facts["value"]) > 32
    assert facts["node_index"] == 0


def test_a_composite_may_have_more_axes_inside() -> None:
    graph = grow(inputs(x=(1,) * 32), Entry("avg_pool", (0,), {"kernel": 1}), Entry("sum", (1,)))
    given = {"inputs/x": np.full((1,) * 32, 2.0)}
    results = run(graph, given, mode="vjp")
    assert results["outputs/2"] == 2.0
    np.testing.assert_array_equal(results["gradients/x"], np.ones((1,) * 32))


# -- derived graphs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spec", "kind"),
    [
        ((3,), TransformSpec("vmap", axis_size=2**40, in_axes={"x": 0}), errors.MemoryLimit),
        ((3,), TransformSpec("vmap", axis_size=2**40), errors.MemoryLimit),
        ((0,), TransformSpec("vmap", axis_size=2**62, in_axes={"x": 0}), errors.MemoryLimit),
        ((1,) * 32, TransformSpec("vmap", axis_size=1, in_axes={"x": 0}), errors.InvalidShape),
    ],
)
def test_a_derived_graph_keeps_the_limits(
    shape: tuple[int, ...], spec: TransformSpec, kind: type[errors.EngineError]
) -> None:
    graph = grow(inputs(x=shape), Entry("tanh", (0,)))
    with pytest.raises(kind):
        SMALL.transform(graph, spec)
    with pytest.raises(kind):
        SMALL.prepare(graph, RunSpec(transforms=(spec,)))


def test_transforms_cannot_grow_a_graph_without_end() -> None:
    graph = grow(inputs(x=(3,)), Entry("tanh", (0,)), Entry("sum", (1,)))
    engine = Engine()
    engine.limits = Limits(values=500)
    engine.prepare(graph, RunSpec(transforms=(TransformSpec("vjp"),) * 2))
    for step in (TransformSpec("vjp"), TransformSpec("jvp", wrt=())):
        with pytest.raises(errors.QuotaExceeded) as caught:
            engine.prepare(graph, RunSpec(transforms=(step,) * 12))
        assert (caught.value.quota, caught.value.limit) == ("nodes", 500)


def test_large_graphs_may_grow_in_proportion() -> None:
    graph = grow(inputs(x=(3,)), *(Entry("tanh", (k,)) for k in range(100)), Entry("sum", (100,)))
    engine = Engine()
    engine.limits = Limits(values=300)
    assert len(engine.transform(graph, TransformSpec("vjp")).nodes) > 300


def test_names_of_derived_values_stay_readable() -> None:
    name = "x" * 190
    graph = grow([Input(name, Type((3,)))], Entry("scale", (0,), {"c": 2.0}, name="y"))
    steps = (TransformSpec("linearize"),) * 150
    with pytest.raises(errors.InvalidName):
        ENGINE.prepare(graph, RunSpec(transforms=steps))


def test_a_point_is_checked_though_nothing_is_kept_of_it() -> None:
    """A linear graph has no residuals, but its point is part of the request all the same."""
    graph = grow(inputs(x=(3,), u=(2,)), Entry("add", (0, 0)))

    def point(**tensors: Any) -> None:
        spec = TransformSpec("linearize", inputs=tuple(tensors))
        given = {f"inputs/{name}": np.asarray(array) for name, array in tensors.items()}
        ENGINE.transform(graph, spec, given)

    point(x=X)
    point(x=X, u=X[:2])
    with pytest.raises(errors.MissingInput):
        point()
    with pytest.raises(errors.UnknownInput):
        point(x=X, z=X)
    with pytest.raises(errors.InputShapeMismatch):
        point(x=X[:2])
    with pytest.raises(errors.InputDtypeMismatch):
        point(x=X, u=X[:2].astype(np.float32))
    with pytest.raises(errors.MissingInput):
        run(graph, {"inputs/tangent.x": X}, transforms=(TransformSpec("linearize"),))


# -- runs ------------------------------------------------------------------------------------------


def test_a_view_is_no_way_around_the_limit() -> None:
    """Repeating takes no memory, but summing a view of 2^50 elements would take for ever."""
    graph = grow(inputs(x=(0,), c=(2,)), Entry("sum", (0,)), Entry("tanh", (1,)))
    spec = RunSpec(
        outputs=(3,),
        inputs=("x", "c"),
        in_axes={"inputs/x": 0},
        reduce={"outputs/3": "sum"},
    )
    tensors = {"inputs/x": np.zeros((2**50, 0)), "inputs/c": X[:2]}
    with pytest.raises(errors.MemoryLimit):
        SMALL.prepare(graph, spec).execute(tensors)


def test_a_composite_is_checked_by_its_parts() -> None:
    """The windows of a pool with huge padding are beyond any memory, though its result is not."""
    size = 2**61
    attrs = {"kernel": size, "stride": size, "padding": size, "beta": 1.0}
    graph = grow(inputs(x=(2, 3, 4)), Entry("smooth_max_pool", (0,), attrs))
    prepared = SMALL.prepare(graph, RunSpec(inputs=("x",)))
    with pytest.raises(errors.MemoryLimit):
        prepared.execute({"inputs/x": np.zeros((2, 3, 4))})


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("conv", ((1, 1, 2), (1,), (1, 3)), {"stride": 2**62}),
        ("conv_general", ((1, 1, 1), (1, 1, 1)), {"dilate_x": 2**62, "dilate_w": 2**62}),
        ("unfold", ((1, 3),), {"kernel": 2, "stride": 2**62}),
        ("max_pool", ((1, 3),), {"kernel": 2, "stride": 2**62}),
    ],
)
def test_steps_beyond_any_memory(
    op: str, shapes: tuple[tuple[int, ...], ...], attrs: dict[str, Any]
) -> None:
    """A stride that is never taken, as there is one place only, may be of any size."""
    named = {f"x{k}": shape for k, shape in enumerate(shapes)}
    specs = [Input(name, Type(shape, "float64")) for name, shape in named.items()]
    graph = grow(specs, Entry(op, tuple(range(len(shapes))), attrs, name="y"))
    given = {f"inputs/{name}": np.ones(shape) for name, shape in named.items()}
    cotangent = np.ones(graph.type_of(graph.size - 1).shape)
    results = run(graph, {**given, "cotangents/y": cotangent}, mode="vjp")
    assert all(np.isfinite(array).all() for array in results.values())


def test_counting_along_an_empty_tensor_takes_no_memory() -> None:
    graph = grow([], Entry("iota", (), {"shape": [0, 2**50], "axis": 1}))
    assert run(graph, {})["outputs/0"].shape == (0, 2**50)


def test_folding_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gradwire_engine.passes.fold"], "BUDGET", 40_000)
    value = np.arange(1000.0)
    chain = [Entry("const", (), {"value": value})]
    chain += [Entry("cumsum", (k,), {"axis": 0}) for k in range(100)]
    graph = optimize(grow([], *chain))
    kept = [n.op.value.array.nbytes for n in graph.nodes if isinstance(n.op, Const)]
    assert sum(kept) <= 40_000 + value.nbytes
    assert any(not isinstance(n.op, Const) for n in graph.nodes)


def test_planning_ends_at_the_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the plan was made")

    monkeypatch.setattr(engine_module, "make_plan", never)
    graph = grow(inputs(x=(3,)), Entry("tanh", (0,)))
    prepared = Engine().prepare(graph, RunSpec(inputs=("x",), deadline_ms=0.0))
    with pytest.raises(errors.DeadlineExceeded):
        prepared.execute({"inputs/x": X})


def test_few_large_preparations_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CACHED_VALUES", 10)
    engine = Engine()
    graph = grow(inputs(x=(3,)), *(Entry("tanh", (k,)) for k in range(4)))
    first = engine.prepare(graph, RunSpec(outputs=(1,)))
    assert engine.prepare(graph, RunSpec(outputs=(1,))) is first
    engine.prepare(graph, RunSpec(outputs=(2,)))
    engine.prepare(graph, RunSpec(outputs=(3,)))
    assert engine.prepare(graph, RunSpec(outputs=(1,))) is not first


def test_a_graph_can_be_forgotten() -> None:
    engine = Engine()
    kept, gone = (grow(inputs(x=(3,)), Entry(op, (0,))) for op in ("tanh", "exp"))
    first, second = engine.prepare(kept, RunSpec()), engine.prepare(gone, RunSpec())
    engine.forget(gone)
    assert engine.prepare(kept, RunSpec()) is first
    assert engine.prepare(gone, RunSpec()) is not second


def test_the_bytes_of_constants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CACHED_BYTES", 250)
    engine = Engine()
    graphs = [
        grow(inputs(x=(10,)), Entry("const", attrs={"value": np.full(10, k)}, name="c"))
        for k in range(5)
    ]
    first, *_, last = [engine.prepare(graph, RunSpec()) for graph in graphs]
    assert engine.prepare(graphs[-1], RunSpec()) is last
    assert engine.prepare(graphs[0], RunSpec()) is not first


def test_an_adopted_constant_is_the_same_constant() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    copied, adopted = Literal(array), Literal.adopt(array)
    assert np.shares_memory(adopted.array, array)
    assert not adopted.array.flags.writeable
    assert array.flags.writeable
    assert adopted == copied
    told = Literal.adopt(array, copied.sha256)
    array[0, 0] = 7  # what nobody may do shows that it is not read again
    assert told == copied
    assert len({Literal(np.float32(1)), Literal.adopt(np.array(1, np.float32))}) == 1
    assert Literal(np.zeros((0, 3))) != Literal(np.zeros((3, 0)))


# -- options ---------------------------------------------------------------------------------------


def test_a_null_axis_is_not_mapped() -> None:
    graph = grow(inputs(x=(3,), c=(3,)), Entry("mul", (0, 1), name="y"))
    batch = np.stack([X, 2 * X])
    given = {"inputs/x": batch, "inputs/c": X}
    mapped = run(graph, given, in_axes={"inputs/x": 0, "inputs/c": None})
    np.testing.assert_array_equal(mapped["outputs/y"], batch * X)
    plain = run(graph, {"inputs/x": X, "inputs/c": X}, in_axes={"inputs/x": None})
    assert plain["outputs/y"].shape == (3,)
    pulled = {**given, "cotangents/y": X}
    axes = {"inputs/x": 0, "cotangents/y": None}
    assert run(graph, pulled, mode="vjp", in_axes=axes)["gradients/c"].shape == (2, 3)
    pushed = {**given, "tangents/c": X}
    axes = {"inputs/x": 0, "tangents/c": None, "tangents/x": None}
    assert run(graph, pushed, mode="jvp", in_axes=axes)["tangents/y"].shape == (2, 3)
    derived = ENGINE.transform(
        graph, TransformSpec("vmap", axis_size=2, in_axes={"x": 0, "c": None})
    )
    assert [i.type.shape for i in derived.inputs] == [(2, 3), (3,)]
    for bad in ({"inputs/z": None}, {"inputs/x": 0, "inputs/z": None}):
        with pytest.raises(errors.UnknownInput):
            run(graph, given, in_axes=bad)
    with pytest.raises(errors.InvalidOption):
        run(graph, given, in_axes={"inputs/x": None}, reduce={"outputs/y": "sum"})


def test_the_mean_of_integers_or_of_nothing_is_refused() -> None:
    graph = grow(inputs(x=(3,)), Entry("argmax", (0,), {"axis": 0}, name="top"))
    batch = np.stack([X, X])
    options: dict[str, Any] = {"in_axes": {"inputs/x": 0}}
    total = run(graph, {"inputs/x": batch}, reduce={"outputs/top": "sum"}, **options)
    assert total["outputs/top"] == 4
    with pytest.raises(errors.InvalidOption) as caught:
        run(graph, {"inputs/x": batch}, reduce={"outputs/top": "mean"}, **options)
    assert caught.value.path == "reduce/outputs/top"
    empty = {"inputs/x": np.zeros((0, 3))}
    assert run(graph, empty, reduce={"outputs/top": "sum"}, **options)["outputs/top"] == 0
    graph = grow(inputs(x=(3,)), Entry("sum", (0,), name="y"))
    with pytest.raises(errors.InvalidOption):
        run(graph, empty, reduce={"outputs/y": "mean"}, **options)


def test_nan_policy_over_no_samples_at_all() -> None:
    graph = grow(inputs(x=(3,)), Entry("log", (0,)), Entry("sum", (1,)))
    results = run(
        graph,
        {"inputs/x": np.zeros((0, 3))},
        mode="vjp",
        in_axes={"inputs/x": 0},
        nan_policy="error",
    )
    assert results["gradients/x"].shape == (0, 3)


@pytest.mark.parametrize(
    "spec",
    [
        TransformSpec("vjp"),
        TransformSpec("jvp"),
        TransformSpec("vmap", axis_size=2, in_axes={"x": 1}),
        TransformSpec("linearize", inputs=("x", "u")),
    ],
    ids=lambda spec: spec.transform,
)
def test_every_derived_node_has_an_origin(spec: TransformSpec) -> None:
    """Residuals, zeros of what is not reached, and what only moves an axis included."""
    graph = grow(
        inputs(x=(3,), u=(3,)),
        Entry("tanh", (0,)),
        Entry("const", (), {"value": X}),
        outputs={"y": 2, "c": 3, "u": 1},
    )
    derived = ENGINE.transform(graph, spec, {"inputs/x": X, "inputs/u": X})
    for node in derived.nodes:
        assert node.origin is not None, node
        assert 0 <= node.origin.node < graph.size
        wanted = "input" if node.origin.node < 2 else graph.nodes[node.origin.node - 2].op.name
        assert node.origin.op == wanted
