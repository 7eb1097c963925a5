"""The builder refuses as GraphM does, whole batches at a time, and never changes what is there."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_engine import Builder, Entry, Handle, Input, Type, errors, make_input, ops
from gradwire_engine.ops.elementwise import tanh

from .support import inputs


def test_ids_run_on_from_the_inputs() -> None:
    builder = Builder(inputs(x=(3,), w=(3,)))
    nodes = builder.append([Entry("mul", (0, 1), name="p"), Entry("tanh", ("p",))])
    assert [n.inputs for n in nodes] == [(0, 1), (2,)]
    assert (builder.version, builder.ctx_len) == (2, 4)
    assert builder.graph().outputs == (("3", 3),)
    assert builder.graph(version=1).outputs == (("p", 2),)


def test_push_and_handles_are_graphms() -> None:
    builder = Builder(inputs(x=(3,)))
    x = builder.arg(0, (3,))
    assert x == Handle(0, (3,))
    assert builder.args().head == x
    assert builder.args().tail == ()
    assert builder.push(tanh, [x]) == Handle(1, (3,))


REFUSALS = [
    (Entry("tanh", (9,)), "var_out_of_bounds", {"id": 9, "ctx_len": 2, "operand": "x"}),
    (Entry("tanh", (-1,)), "var_out_of_bounds", {"id": -1, "ctx_len": 2}),
    (Entry("tanh", (10**30,)), "var_out_of_bounds", {"id": 10**30}),
    (
        Entry("tanh", (Handle(0, (4,)),)),
        "var_shape_mismatch",
        {"id": 0, "expected": [4], "actual": [3]},
    ),
    (Entry("tahn", (0,)), "unknown_op", {"op": "tahn"}),
    (Entry("tanh", ("xx",)), "unknown_name", {"name": "xx"}),
    (Entry("add", (0,)), "wrong_arity", {"op": "add", "expected": 2, "actual": 1}),
    (Entry("concat", (), {"axis": 0}), "wrong_arity", {"expected": [1, None], "actual": 0}),
    (Entry("scale", (0,)), "missing_attribute", {"op": "scale", "attribute": "c"}),
    (Entry("scale", (0,), {"c": None}), "missing_attribute", {"attribute": "c"}),
    (Entry("scale", (0,), {"c": 1, "d": 2}), "unknown_attribute", {"attribute": "d"}),
    (Entry("scale", (0,), {"c": "2"}), "invalid_attribute", {"attribute": "c", "value": "2"}),
    (Entry("scale", (0,), {"c": True}), "invalid_attribute", {"attribute": "c"}),
    (
        Entry("add", (0, 1)),
        "shape_mismatch",
        {"op": "add", "operand": "b", "expected": [3], "actual": [4]},
    ),
    (Entry("tanh", (0,), name="w"), "name_conflict", {"name": "w"}),
    (Entry("tanh", (0,), name="9a"), "invalid_name", {"name": "9a"}),
    (Entry("tanh", (0,), name="a" * 201), "invalid_name", {}),
]


@pytest.mark.parametrize(("entry", "code", "facts"), REFUSALS)
def test_a_refused_batch_leaves_no_trace(entry: Entry, code: str, facts: dict[str, object]) -> None:
    builder = Builder(inputs(x=(3,), w=(4,)))
    good = Entry("exp", (0,), name="fine", source="model.py:1")
    bad = Entry(entry.op, entry.inputs, entry.attrs, entry.name, "model.py:7")
    if code == "var_out_of_bounds":
        facts = {**facts, **({"ctx_len": 3} if "ctx_len" in facts else {})}
    with pytest.raises(errors.EngineError) as caught:
        builder.append([good, bad])
    assert caught.value.code == code
    found = caught.value.facts()
    assert {k: found[k] for k in facts} == facts
    assert found["node_index"] == 1
    assert found["source"] == "model.py:7"
    assert "model.py:7" in str(caught.value)
    assert builder.version == 0
    assert "fine" not in builder.names
    builder.append([good])


def test_order_of_checks_op_arity_refs_attributes_types() -> None:
    builder = Builder(inputs(x=(3,), w=(4,)))
    order = [
        (Entry("nope", (9,), {"z": 1}), "unknown_op"),
        (Entry("add", (9,), {"z": 1}), "wrong_arity"),
        (Entry("add", (0, 9), {"z": 1}), "var_out_of_bounds"),
        (Entry("add", (0, 1), {"z": 1}), "unknown_attribute"),
        (Entry("add", (0, 1)), "shape_mismatch"),
    ]
    for entry, code in order:
        with pytest.raises(errors.EngineError) as caught:
            builder.append([entry])
        assert caught.value.code == code


def test_what_is_remembered_of_an_op_holds_for_its_operands_and_limits_alone() -> None:
    roomy = Builder(inputs(x=(2, 3), w=(3, 4), c=(3, 5)))
    entry = Entry("matmul", ("x", "w"))
    for _ in range(2):
        assert roomy.append([entry])[0].type == Type((2, 4), "float64")
    assert roomy.append([Entry("matmul", ("x", "c"))])[0].type == Type((2, 5), "float64")
    singles = Builder([Input(i.name, i.type.with_dtype("float32"), True) for i in roomy.inputs])
    assert singles.append([entry])[0].type == Type((2, 4), "float32")
    small = Builder(inputs(x=(2, 3), w=(3, 1)), memory_limit=48)
    small.append([entry, Entry("transpose2d", ("w",))])
    with pytest.raises(errors.MemoryLimit):
        small.append([Entry("matmul", ("w", 3))])
    for refs in ((0,), (0, 1, 2), (0, True, 1)):
        with pytest.raises(errors.WrongArity):
            roomy.append([Entry("matmul", refs)])
    with pytest.raises(errors.ShapeMismatch):
        roomy.append([Entry("matmul", ("w", "x"))])


def test_aliases_resolve_before_facts_are_filled() -> None:
    builder = Builder(inputs(x=(3,), w=(4,)))
    with pytest.raises(errors.ShapeMismatch) as caught:
        builder.append([Entry("max", (0, 1))])
    assert caught.value.op == "maximum"


def test_limits() -> None:
    builder = Builder(inputs(x=(3,)), memory_limit=1000, node_limit=2)
    with pytest.raises(errors.MemoryLimit) as memory:
        builder.append([Entry("broadcast_to", (0,), {"shape": [1000, 3]})])
    assert (memory.value.limit, memory.value.actual) == (1000, 24000)
    with pytest.raises(errors.QuotaExceeded) as quota:
        builder.append([Entry("tanh", (0,))] * 3)
    assert (quota.value.quota, quota.value.limit) == ("nodes", 2)
    with pytest.raises(errors.MemoryLimit):
        Builder(inputs(x=(2**40, 2**40)))


@pytest.mark.parametrize(
    ("shape", "dtype", "differentiable", "code"),
    [
        ([-1], "float32", None, "invalid_shape"),
        ([1] * 33, "float32", None, "invalid_shape"),
        ([2], "float16", None, "unknown_dtype"),
        ([2], "int64", True, "invalid_option"),
    ],
)
def test_input_declarations(
    shape: list[int], dtype: str, differentiable: bool | None, code: str
) -> None:
    with pytest.raises(errors.EngineError) as caught:
        make_input("x", shape, dtype, differentiable, "inputs/0")
    assert caught.value.code == code
    assert str(caught.value.facts()["path"]).startswith("inputs/0/")


def test_inputs_of_one_name_conflict() -> None:
    with pytest.raises(errors.NameConflict):
        Builder([Input("x", Type((1,))), Input("x", Type((2,)))])


def test_find_knows_aliases_and_suggests() -> None:
    assert ops.find("logSoftmax").name == "log_softmax"
    with pytest.raises(errors.UnknownOp) as caught:
        ops.find("sofmax")
    assert "softmax" in (caught.value.suggestions or [])


def test_literals_compare_by_bytes() -> None:
    one = ops.find("const").parse({"value": np.array([np.nan, 0.0])})
    same = ops.find("const").parse({"value": np.array([np.nan, 0.0])})
    other = ops.find("const").parse({"value": np.array([np.nan, -0.0])})
    assert one == same
    assert one.key == same.key
    assert one.key != other.key
