"""What a session sends for what is called on it, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

import gradwire as gw
from gradwire import errors
from gradwire.wire.messages import BINARY

if TYPE_CHECKING:
    from .conftest import Script, Sent


def here() -> int:
    """The caller's line."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


# -- creating and opening --------------------------------------------------------------------------


def test_a_session_is_created_from_its_inputs(script: Script, client: gw.Client) -> None:
    g = client.session({"x": (3,), "d": ((), "float64")}, name="n")
    (sent,) = script.sent
    assert sent.document == {
        "name": "n",
        "inputs": [
            {"name": "x", "shape": [3], "dtype": "float32"},
            {"name": "d", "shape": [], "dtype": "float64"},
        ],
    }
    assert sent.headers["Idempotency-Key"]
    assert sent.headers["Accept-Encoding"] == "identity"
    assert sent.headers["User-Agent"].startswith("python-httpx") is True
    assert (g.id, g.name, g.version, g.context_length) == ("ses_1", "n", 0, 2)
    assert (g.d.shape, g.d.dtype, g.d.id, g.d.name) == ((), "float64", 1, "d")


def test_inputs_are_found_in_three_ways(g: gw.Session) -> None:
    assert g.w is g["w"] is g.inputs.w is g.inputs["w"] is g[1] is g.args[1] is g.arg(1, (2,))
    assert list(g.inputs) == ["x", "w"]
    assert len(g.inputs) == 2
    with pytest.raises(ValueError, match="input 1 has shape"):
        g.arg(1, (3,))
    with pytest.raises(IndexError):
        g.arg(2)
    with pytest.raises(AttributeError, match="no attribute, op or input 'q'"):
        _ = g.q
    with pytest.raises(AttributeError, match="no input 'q'"):
        _ = g.inputs.q
    with pytest.raises(KeyError, match="did you mean 'w'"):
        _ = g["ww"]


def test_a_method_keeps_its_name(client: gw.Client) -> None:
    g = client.session({"sum": (2,), "keys": (2,), "values": (2,), "_w": (2,)})
    assert callable(g.sum)
    assert g.inputs.sum is g["sum"]
    for name in ("keys", "values", "_w"):
        assert getattr(g.inputs, name) is g[name] is g.inputs[name]
    assert dict(zip(g.inputs, g.args, strict=True)) == {name: g[name] for name in g.inputs}
    assert "values" in g.inputs
    assert "q" not in g.inputs


def test_names_are_completed_and_suggested(client: gw.Client) -> None:
    g = client.session({"x": (2,), "weights": (2,)})
    assert {"x", "weights", "linear", "function"} <= set(dir(g))
    assert "weights" in dir(g.inputs)
    with pytest.raises(AttributeError) as typo:
        _ = g.lienar
    assert (typo.value.name, typo.value.obj) == ("lienar", g)
    with pytest.raises(KeyError, match="did you mean 'x'"):
        _ = g["X"]
    with pytest.raises(KeyError, match="it knows 'x', 'weights'"):
        _ = g["q"]
    with pytest.raises(KeyError, match="did you mean 'weights'"):
        _ = g.inputs["weight"]


def test_an_open_session_knows_its_values(script: Script, client: gw.Client) -> None:
    client.session({"x": (2,)}).tanh("x", name="h")
    g = client.open("n")
    assert script.sent[-1].path == "/v1/sessions/n"
    assert g["h"].id == 1
    assert g["h"].shape == (2,)


def test_a_name_is_quoted_in_a_path(script: Script, client: gw.Client) -> None:
    client.open("a b?")
    assert script.sent[-1].path == "/v1/sessions/a b?"
    assert script.sent[-1].query == {}


def test_refresh_learns_what_others_added(script: Script, g: gw.Session) -> None:
    g.tanh(g.x)
    script.node({"op": "exp", "inputs": [0], "name": "theirs"})
    with pytest.raises(KeyError):
        _ = g["theirs"]
    assert g.refresh() is g
    assert script.sent[-1].query == {"since": "1"}
    assert (g["theirs"].id, g.version) == (3, 2)


# -- appending -------------------------------------------------------------------------------------


def test_an_op_is_sent_at_once(script: Script, g: gw.Session) -> None:
    y, line = g.cumsum(g.x, axis=0, name="y"), here()
    (sent,) = script.appends
    assert sent.document == {
        "nodes": [
            {
                "op": "cumsum",
                "inputs": [{"id": 0, "shape": [2]}],
                "attrs": {"axis": 0, "reverse": False},
                "name": "y",
                "source": f"{__file__}:{line}".removeprefix(f"{script_root()}/"),
            }
        ]
    }
    assert sent.headers["Idempotency-Key"]
    assert "If-Match" not in sent.headers, "one op alone depends on no coming id"
    assert (y.id, y.name, y.shape, y.dtype) == (2, "y", (2,), "float32")
    assert g["y"] is y


def script_root() -> str:
    import os

    return os.getcwd()


def test_sources_can_be_left_out(script: Script) -> None:
    transport = httpx.MockTransport(script.handle)
    with gw.connect("http://test", keep_sources=False, transport=transport) as client:
        client.session({"x": (2,)}).tanh("x")
        assert "source" not in script.appends[0].document["nodes"][0]
        assert script.sent[0].headers["User-Agent"].startswith("gradwire-python/")


def test_a_long_path_keeps_its_end(g: gw.Session, script: Script) -> None:
    code = compile("g.tanh(g.x)", "/deep" * 100 + "/model.py", "exec")
    exec(code, {"g": g, "__name__": "elsewhere"})
    source = script.appends[-1].document["nodes"][0]["source"]
    assert len(source) == 300
    assert source.endswith("/model.py:1")


def test_numbers_and_arrays_become_constants(script: Script, g: gw.Session) -> None:
    g.scatter_add_vec(g.x, 2.0, index=1)
    g.take(g.x, np.array([0, 1]), axis=0)
    first, second = script.appends
    assert [node["op"] for node in first.document["nodes"]] == ["const", "scatter_add_vec"]
    assert first.document["nodes"][0]["attrs"]["value"] == {
        "dtype": "float32",
        "shape": [],
        "data": [2.0],
    }
    assert first.document["nodes"][1]["inputs"] == [{"id": 0, "shape": [2]}, 2]
    assert first.headers["If-Match"] == '"0"'
    assert second.document["nodes"][0]["attrs"]["value"]["dtype"] == "int64"


def test_a_large_constant_travels_as_bytes(script: Script, g: gw.Session) -> None:
    value = np.arange(1000, dtype=np.float32)
    g.const(value)
    sent = script.appends[-1]
    assert sent.headers["Content-Type"] == BINARY
    np.testing.assert_array_equal(sent.tensors["nodes/0/attrs/value"], value)
    assert sent.document["nodes"][0]["op"] == "const"


def test_operands_left_out_and_either_kinds(script: Script, g: gw.Session) -> None:
    g.gather_vec_nat(g.x, indices=[0, 1])
    g.rand_uniform(shape=(2,), seed=3)
    g.rand_uniform(g.x, shape=(2,))
    nodes = [sent.document["nodes"][0] for sent in script.appends]
    assert nodes[0]["inputs"] == [{"id": 0, "shape": [2]}]
    assert nodes[0]["attrs"]["indices"]["dtype"] == "int64"
    assert nodes[1]["inputs"] == []
    assert nodes[1]["attrs"]["seed"] == 3
    assert nodes[2]["inputs"] == [{"id": 0, "shape": [2]}]
    assert "seed" not in nodes[2]["attrs"]


def test_variadic_operands_may_come_as_a_list(script: Script, g: gw.Session) -> None:
    g.concat(g.x, g.w)
    g.concat([g.x, "w"], axis=0)
    first, second = (sent.document["nodes"][0]["inputs"] for sent in script.appends)
    assert first == [{"id": 0, "shape": [2]}, {"id": 1, "shape": [2]}]
    assert second == [{"id": 0, "shape": [2]}, "w"]


def test_raw_entries_go_out_as_they_stand(script: Script, g: gw.Session) -> None:
    handles = g.append(
        [
            {"op": "tanh", "inputs": [{"id": 0, "shape": [9]}], "source": "mine"},
            {"op": "nonsense", "inputs": [g.x, "q", -7], "attrs": {"v": gw.Literal(np.ones(2))}},
        ]
    )
    nodes = script.appends[0].document["nodes"]
    assert nodes[0] == {"op": "tanh", "inputs": [{"id": 0, "shape": [9]}], "source": "mine"}
    assert nodes[1]["inputs"] == [{"id": 0, "shape": [2]}, "q", -7]
    assert nodes[1]["attrs"]["v"]["dtype"] == "float64"
    assert [handle.id for handle in handles] == [2, 3]


def test_a_handle_belongs_to_its_session(client: gw.Client, g: gw.Session) -> None:
    other = client.session({"x": (2,), "w": (2,)})
    with pytest.raises(ValueError, match="another session"):
        g.tanh(other.x)
    assert g[other.w] is g.w


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_is_one_request(script: Script, g: gw.Session) -> None:
    with g.batch():
        h = g.x
        for _ in range(200):
            h = g.tanh(h)
        y = g.sum(h, name="loss")
        assert (h.id, y.id) == (201, 202)
        assert not script.appends
    (sent,) = script.appends
    nodes = sent.document["nodes"]
    assert len(nodes) == 201
    assert nodes[0]["inputs"] == [{"id": 0, "shape": [2]}]
    assert nodes[1]["inputs"] == [2]
    assert sent.headers["If-Match"] == '"0"'
    assert g["loss"] is y
    assert g.version == 201


def test_elementwise_shapes_are_known_inside_a_batch(script: Script, g: gw.Session) -> None:
    with g.batch():
        h = (g.tanh(g.x * 2 + 1.0) @ g.w) ** 2
        assert h.shape == ()
        assert not script.appends
    assert len(script.appends) == 1


def test_an_unknown_shape_sends_the_batch_early(script: Script, g: gw.Session) -> None:
    with g.batch():
        y = g.einsum(g.x, spec="i->i")
        assert y.shape == (2,), "what the scripted server says"
        assert len(script.appends) == 1
        g.exp(y)
    assert len(script.appends) == 2


def test_the_type_of_an_op_is_told_before_the_answer_or_not_at_all(real: gw.Client) -> None:
    from tests.laws.rows import ROWS

    untold: set[str] = set()
    for row in ROWS:
        kinds: Any = ["float64" if d.dtype == "float" else d.dtype for d in row.operands]
        pairs = zip(row.operands, kinds, strict=True)
        g = real.session({f"x{k}": (draw.shape, kind) for k, (draw, kind) in enumerate(pairs)})
        attrs = {n: gw.Literal(v) if isinstance(v, np.ndarray) else v for n, v in row.attrs.items()}
        with g.batch():
            y = g._apply(row.op, g.args, attrs)
            shape, dtype = y._slot.shape, y._slot.dtype
        assert shape in (y.shape, None), row.id
        assert dtype in (y.dtype, None), row.id
        assert dtype is not None or "float64" not in kinds, row.id
        untold |= {row.op} if shape is None else set()
    common = {
        "linear",
        "conv",
        "max_pool",
        "layer_norm",
        "matmul",
        "reshape",
        "reduce_sum",
        "where",
    }
    assert untold.isdisjoint(common), untold


def test_batches_nest(script: Script, g: gw.Session) -> None:
    with g.batch():
        with g.batch():
            g.tanh(g.x)
        assert not script.appends
    assert len(script.appends) == 1


def test_a_batch_that_raises_sends_nothing(script: Script, g: gw.Session) -> None:
    def fail() -> Iterator[None]:
        with g.batch():
            lost = g.tanh(g.x, name="lost")
            yield None
            raise ZeroDivisionError(lost.id)

    with pytest.raises(ZeroDivisionError):
        list(fail())
    assert not script.appends
    with pytest.raises(KeyError):
        _ = g["lost"]
    assert g.exp(g.x).id == 2


def test_flush_sends_what_a_batch_has(script: Script, g: gw.Session) -> None:
    with g.batch():
        g.tanh(g.x)
        g.flush()
        assert len(script.appends) == 1


def test_a_refused_batch_leaves_dead_handles(script: Script, g: gw.Session) -> None:
    def refuse(sent: Sent) -> httpx.Response:
        return script.refuse("shape_mismatch", node_index=1, op="exp")

    script.special.append(refuse)
    made: list[gw.Tensor] = []
    lines: list[int] = []

    def build() -> None:
        with g.batch():
            made.append(g.tanh(g.x, name="a"))
            made.append(g.exp(made[0]))
            lines.append(here() - 1)

    with pytest.raises(errors.ShapeMismatch) as caught:
        build()
    assert caught.value.source is not None
    assert caught.value.source.endswith(f"test_session.py:{lines[0]}")
    for dead in made:
        with pytest.raises(RuntimeError, match="does not exist"):
            _ = dead.id
        with pytest.raises(RuntimeError, match="does not exist"):
            _ = dead.shape
        with pytest.raises(RuntimeError, match="does not exist"):
            g.tanh(dead)
        assert "does not exist" in repr(dead)
    assert g.tanh(g.x, name="a").id == 2


def test_a_faster_writer_only_renumbers_a_batch(script: Script, g: gw.Session) -> None:
    script.node({"op": "exp", "inputs": [0]})
    with g.batch():
        a = g.tanh(g.x)
        b = g.exp(a)
        assert (a.id, b.id) == (2, 3)
    refused, sent = script.appends
    assert refused.headers["If-Match"] == '"0"'
    assert sent.headers["If-Match"] == '"1"'
    assert refused.headers["Idempotency-Key"] != sent.headers["Idempotency-Key"]
    assert sent.document["nodes"][1]["inputs"] == [3]
    assert (a.id, b.id, g.version) == (3, 4, 3)


def test_raw_ids_are_never_renumbered(script: Script, g: gw.Session) -> None:
    script.node({"op": "exp", "inputs": [0]})

    def build() -> None:
        with g.batch():
            a = g.exp(g.tanh(g.x))
            g.append([{"op": "add", "inputs": [a.id, 3]}])

    with pytest.raises(errors.VersionConflict):
        build()
    assert len(script.appends) == 1
    assert script.version == 1


def test_renumbering_gives_up(script: Script, g: gw.Session) -> None:
    def conflict(sent: Sent) -> httpx.Response:
        return script.refuse("version_conflict", expected=0, actual=1)

    script.special += [conflict] * 8
    with pytest.raises(errors.VersionConflict), g.batch():
        g.exp(g.tanh(g.x))
    assert len(script.appends) == 8


def test_one_op_alone_lands_behind_other_writers(script: Script, g: gw.Session) -> None:
    script.node({"op": "exp", "inputs": [0]})
    assert g.tanh(g.x).id == 3
    assert g.version == 2


def test_a_lost_append_is_sent_again_under_its_key(script: Script, g: gw.Session) -> None:
    script.special.append(lambda sent: httpx.ReadError("reset"))
    y = g.tanh(g.x)
    first, second = script.appends
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.document == second.document
    assert y.id == 2


def test_a_timeout_is_told_as_one(script: Script, g: gw.Session) -> None:
    script.special.append(lambda sent: httpx.ReadTimeout("slow"))
    with pytest.raises(gw.TimedOut, match="slow"):
        g.tanh(g.x)


def test_no_server_is_told_as_such(script: Script, g: gw.Session) -> None:
    script.special += [lambda sent: httpx.ConnectError("refused")] * 4
    with pytest.raises(gw.ConnectionFailed, match="refused"):
        g.refresh()


# -- asking ----------------------------------------------------------------------------------------


def test_declared_outputs(script: Script, g: gw.Session) -> None:
    g.declare_outputs({"a/b": g.x}, loss="w")
    assert script.sent[-1].document == {"outputs": {"a/b": {"id": 0, "shape": [2]}, "loss": "w"}}
    assert set(g.outputs) == {"a/b", "loss"}


def test_fork_transform_delete(script: Script, g: gw.Session) -> None:
    g.fork(3, name="f")
    assert script.sent[-1].document == {"from": {"session": "ses_1", "version": 3}, "name": "f"}
    g.transform("linearize", outputs=[g.x, "w"], wrt=["x"], inputs={"x": [1.0, 2.0]}, name="lin")
    sent = script.sent[-1]
    assert sent.document == {
        "transform": "linearize",
        "outputs": [{"id": 0, "shape": [2]}, "w"],
        "wrt": ["x"],
        "inputs": {},
        "name": "lin",
    }
    assert sent.tensors["inputs/x"].tolist() == [1.0, 2.0]
    assert sent.headers["Idempotency-Key"]
    g.transform("vmap", axis_size=2, in_axes={"x": 0})
    assert script.sent[-1].document == {"transform": "vmap", "axis_size": 2, "in_axes": {"x": 0}}
    g.delete()
    assert (script.sent[-1].method, script.sent[-1].path) == ("DELETE", "/v1/sessions/ses_1")


def test_values_are_checked_by_shape(script: Script, g: gw.Session) -> None:
    g.value("a/b", (2, 3))
    assert script.sent[-1].path == "/v1/sessions/ses_1/values/a/b"
    assert script.sent[-1].query == {"shape": "2,3"}


def test_sessions_are_listed_page_by_page(script: Script, client: gw.Client) -> None:
    pages: list[Any] = [
        {"sessions": [{"id": "a"}, {"id": "b"}], "next_cursor": "c"},
        {"sessions": [{"id": "d"}], "next_cursor": None},
    ]
    script.special += [lambda sent, page=page: httpx.Response(200, json=page) for page in pages]  # type: ignore[misc] # the default binds the loop's value
    assert [session["id"] for session in client.sessions()] == ["a", "b", "d"]
    assert [sent.query for sent in script.sent] == [{}, {"cursor": "c"}]


def test_reprs_say_what_there_is(g: gw.Session) -> None:
    with g.batch():
        y = g.einsum(g.x, spec="i->i", name="y")
        assert repr(y) == "<Tensor 2 'y' ?>"
        assert repr(g) == "<Session ses_1 'n': 2 values, 1 to be sent>"
    assert repr(y) == "<Tensor 2 'y' float32[2]>"
    assert repr(g.function(loss=y).vmap(x=0)) == "<Function of loss, in_axes={'x': 0}>"
    assert "float32[2]" in repr(g.inputs)


def test_a_handle_holds_no_numbers(g: gw.Session) -> None:
    with pytest.raises(TypeError, match="holds no numbers"):
        bool(g.x)
    with pytest.raises(TypeError, match="holds no numbers"):
        np.asarray(g.x)


# -- async -----------------------------------------------------------------------------------------


def test_async_ops_are_recorded_and_sent_when_awaited(
    script: Script, async_client: gw.AsyncClient
) -> None:
    async def job() -> None:
        g = await async_client.session({"x": (2,), "w": (2,)})
        y = g.einsum((g.x * 2 + g.w).tanh(), spec="i->i", name="y")
        assert not script.appends
        with pytest.raises(RuntimeError, match="await the handle"):
            _ = y.shape
        assert (await y) is y
        assert len(script.appends) == 1
        assert y.shape == (2,)
        z = await g.exp(y)
        assert z.id == y.id + 1
        async with g.batch():
            g.exp(z)
            g.tanh(z)
        assert len(script.appends) == 3
        await z
        assert len(script.appends) == 3, "what is there is not sent again"

    asyncio.run(job())


def test_async_tasks_do_not_send_an_op_twice(script: Script, async_client: gw.AsyncClient) -> None:
    async def job() -> None:
        g = await async_client.session({"x": (2,)})

        async def one() -> None:
            await g.tanh(g.x)

        await asyncio.gather(*(one() for _ in range(20)))
        assert g.version == script.version == 20

    asyncio.run(job())


def test_an_async_batch_that_raises_keeps_what_came_before(
    script: Script, async_client: gw.AsyncClient
) -> None:
    async def job() -> None:
        g = await async_client.session({"x": (2,)})
        before = g.tanh(g.x)

        async def fail() -> None:
            async with g.batch():
                g.exp(before)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await before
        (sent,) = script.appends
        assert [node["op"] for node in sent.document["nodes"]] == ["tanh"]

    asyncio.run(job())


def test_async_refusals_are_raised_where_it_is_awaited(
    script: Script, async_client: gw.AsyncClient
) -> None:
    async def job() -> None:
        g = await async_client.session({"x": (2,)})
        y, line = g.tanh(g.x), here()
        script.special.append(lambda sent: script.refuse("shape_mismatch", node_index=0))
        with pytest.raises(errors.ShapeMismatch) as caught:
            await y
        assert caught.value.source is not None
        assert caught.value.source.endswith(f":{line}")
        with pytest.raises(RuntimeError, match="does not exist"):
            await y
        async with async_client as same:
            assert same is async_client

    asyncio.run(job())
