"""Absurd sizes through the real stack: every op that takes sizes, in every mode, never a 500."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.test_error_codes import node
from tests.service.serving import Server, problem

SIZES = [0, -1, 2**31, 2**62, 2**63 - 1, 2**63, -(2**62)]

WINDOWS = {"kernel": [2, 1], "stride": 2, "padding": [1, 0]}
OPS: list[tuple[str, list[list[int]], dict[str, Any]]] = [
    ("avg_pool", [[2, 3, 4]], WINDOWS),
    ("avg_pool2d", [[2, 3, 4]], {"kernel": 2, "stride": 2}),
    ("avg_pool2d_pad", [[2, 3, 4]], {"kernel": [2, 2], "stride": 2, "padding": 1}),
    ("max_pool", [[2, 3, 4]], WINDOWS),
    ("max_pool2d_pad", [[2, 3, 4]], {"kernel": 2, "padding": 1}),
    ("smooth_max_pool", [[2, 3, 4]], {**WINDOWS, "beta": 1.5}),
    ("unfold", [[2, 3, 4]], WINDOWS),
    ("fold", [[2, 2, 1, 2, 2]], {**WINDOWS, "size": [3, 4]}),
    ("window_pick", [[2, 3, 4], [2, 3, 4]], WINDOWS),
    ("window_unpick", [[2, 3, 4], [2, 2, 2]], WINDOWS),
    ("conv", [[2, 1, 2, 2], [2], [1, 3, 4]], {"stride": [1, 2], "padding": 1}),
    ("conv2d", [[2, 1, 2, 2], [2], [1, 3, 4]], {"stride": 2, "padding": [0, 1]}),
    ("conv_transpose", [[1, 2, 2], [2], [1, 4]], {"stride": 2, "padding": 1}),
    (
        "conv_general",
        [[1, 2, 4], [2, 1, 2]],
        {"strides": 1, "low": 1, "high": [0], "dilate_x": 2, "dilate_w": 1, "groups": 2},
    ),
    ("pad", [[2, 3]], {"low": [1, 0], "high": 1, "interior": 1, "value": 0.5}),
    ("slice", [[4, 3]], {"starts": [0, 1], "limits": [4, 3], "strides": [2, 1]}),
    ("slice_range0", [[4, 3]], {"start": 1, "len": 2}),
    ("reshape", [[4, 3]], {"shape": [2, -1]}),
    ("broadcast_to", [[1, 3]], {"shape": [2, 4, 3], "axes": [1, 2]}),
    ("iota", [], {"shape": [2, 3], "axis": 1, "dtype": "float32"}),
    ("rand_uniform", [], {"shape": [2, 3], "seed": 1, "stream": 2}),
    ("bernoulli_mask", [[]], {"shape": [2, 3], "seed": 1, "stream": 2}),
    ("multi_head_attention", [[2, 4]] * 3 + [[4, 2], [3, 2]], {"num_heads": 2}),
    ("multi_head_attention", [[2, 0]] * 3 + [[0, 2], [3, 2]], {"num_heads": 2}),
    ("gather_scalar", [[4]], {"index": 1}),
    ("gather_row", [[4, 3]], {"index": 1}),
    ("gather_scalar_nat", [[4]], {"index": 1}),
    ("scatter_add_row", [[4, 3], [3]], {"index": 1}),
    ("transpose", [[4, 3]], {"perm": [1, 0]}),
    ("swap_adjacent_at_depth", [[4, 3]], {"depth": 0}),
    ("concat", [[4, 3], [4, 3]], {"axis": 0}),
    ("stack", [[4, 3], [4, 3]], {"axis": 0}),
    ("expand_dims", [[4, 3]], {"axis": [0, 2]}),
    ("squeeze", [[1, 3]], {"axis": 0}),
    ("flip", [[4, 3]], {"axes": [0]}),
    ("cumsum", [[4, 3]], {"axis": 0}),
    ("reduce_sum", [[4, 3]], {"axis": [0, 1]}),
    ("logsumexp", [[4, 3]], {"axis": [1]}),
    ("argmax", [[4, 3]], {"axis": 1}),
    ("dot_general", [[4, 3], [4, 2]], {"contract": [[0], [0]], "batch": [[], []]}),
]
RUNS: list[dict[str, Any]] = [
    {"mode": "forward"},
    {"mode": "vjp"},
    {"mode": "jvp"},
    {"mode": "forward", "transforms": [{"transform": "vmap", "axis_size": 2}]},
]


def variants(attrs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The attributes with one of their numbers replaced, then with all of them."""

    def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if isinstance(value, int) and not isinstance(value, bool):
            yield path
        elif isinstance(value, dict | list):
            steps = value.items() if isinstance(value, dict) else enumerate(value)
            for step, item in steps:
                yield from numbers(item, (*path, step))

    def put(changed: dict[str, Any], path: tuple[Any, ...], size: int) -> None:
        here: Any = changed
        for step in path[:-1]:
            here = here[step]
        here[path[-1]] = size

    places = list(numbers(attrs))
    for size in SIZES:
        whole = copy.deepcopy(attrs)
        for path in places:
            changed = copy.deepcopy(attrs)
            put(changed, path, size)
            put(whole, path, size)
            yield changed
        yield whole


def ones(shape: list[int]) -> dict[str, Any]:
    count = 1
    for size in shape:
        count *= size
    return {"shape": shape, "data": [1.0] * count}


@pytest.mark.slow
@pytest.mark.parametrize(("op", "shapes", "attrs"), OPS)
def test_sizes_as_attributes(
    small: Server, op: str, shapes: list[list[int]], attrs: dict[str, Any]
) -> None:
    names = [f"x{k}" for k in range(len(shapes))]
    body: dict[str, Any] = {
        "inputs": [{"name": n, "shape": s} for n, s in zip(names, shapes, strict=True)],
        "outputs": {"t": "t"},
    }
    given = {"inputs": {n: ones(s) for n, s in zip(names, shapes, strict=True)}}
    for changed in [attrs, *variants(attrs)]:
        nodes = [
            node(op, *names, attrs=changed, name="y"),
            node("cast", "y", attrs={"dtype": "float32"}, name="z"),
            node("sum", "z", name="t"),
        ]
        for run in RUNS:
            answer = small.http.post(
                "/v1/execute", json={**body, "nodes": nodes, "run": {**run, **given}}
            )
            assert answer.status_code in (200, 413, 422), (changed, run, answer.text)
            if changed is attrs:
                assert answer.status_code == 200, answer.text
            if answer.status_code == 200:
                continue
            facts = problem(answer)
            if "node_index" in facts:  # refused as it is appended: whatever the run
                assert facts["node_index"] == 0
                break


def test_a_stack_of_maps_stays_readable(http: httpx.Client) -> None:
    """The transform that would give a value 33 axes is refused; what was stored can be read."""
    made = http.post("/v1/sessions", json={"inputs": [{"name": "x", "shape": [1] * 31}]})
    session = made.json()["id"]
    http.post(f"/v1/sessions/{session}/nodes", json={"nodes": [node("tanh", "x", name="y")]})
    step = {"transform": "vmap", "axis_size": 1, "in_axes": {"x": 0}}
    derived = http.post(f"/v1/sessions/{session}/transforms", json=step)
    assert derived.status_code == 201, derived.text
    again = f"/v1/sessions/{derived.json()['id']}"
    body = problem(http.post(f"{again}/transforms", json=step), "invalid_shape")
    assert (body["path"], len(body["value"])) == ("transform", 33)
    run = http.post(f"{again}/forward", json={"inputs": {"x": {"data": [1.0]}}})
    assert run.status_code == 200, run.text


def test_long_names_of_derived_values(http: httpx.Client) -> None:
    """Names grow with each transform up to 1,000 characters, then transforms are refused."""
    name = "x" * 200
    session = http.post("/v1/sessions", json={"inputs": [{"name": name, "shape": []}]}).json()
    ref = session["id"]
    twice = [node("scale", name, attrs={"c": 2.0}, name="y")]
    http.post(f"/v1/sessions/{ref}/nodes", json={"nodes": twice})
    for _ in range(120):
        point = {i["name"]: 1.0 for i in http.get(f"/v1/sessions/{ref}").json()["inputs"]}
        step = {"transform": "linearize", "inputs": point}
        answer = http.post(f"/v1/sessions/{ref}/transforms", json=step)
        if answer.status_code != 201:
            break
        ref = answer.json()["id"]
    assert problem(answer, "invalid_name")["name"].startswith("tangent.tangent.")
    longest = http.get(f"/v1/sessions/{ref}").json()["inputs"][0]["name"]
    assert 900 < len(longest) <= 1000
    run = http.post(f"/v1/sessions/{ref}/forward", json={"inputs": {longest: 3.0}})
    assert next(iter(run.json()["outputs"].values()))["data"] == [6.0]


def test_null_axes_are_not_mapped(http: httpx.Client, target: str) -> None:
    body = {
        "inputs": {"x": [[1.0, 2.0, 3.0]], "w": [[1.0] * 3] * 2, "b": [0.0, 0.0]},
        "outputs": ["h"],
        "in_axes": {"inputs/x": 0, "inputs/w": None},
    }
    answer = http.post("/v1/sessions/target/forward", json=body)
    assert answer.json()["outputs"]["h"] == {"dtype": "float32", "shape": [1, 2], "data": [6, 6]}
    step = {"transform": "vmap", "axis_size": 2, "in_axes": {"x": 0, "w": None}}
    derived = http.post("/v1/sessions/target/transforms", json=step)
    assert [i["shape"] for i in derived.json()["inputs"][:2]] == [[2, 3], [2, 3]]
    assert http.delete(f"/v1/sessions/{derived.json()['id']}").status_code == 204
