"""Functions of a session on the real service: values, derivatives, mapped axes, options."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

import gradwire as gw
from gradwire import errors

if TYPE_CHECKING:
    from .conftest import Bridge, Script

RNG = np.random.default_rng(3)
X, W, B = RNG.normal(size=3), RNG.normal(size=(2, 3)), RNG.normal(size=2)
FEED: dict[str, Any] = {"x": X, "w": W, "b": B}
H = np.tanh(W @ X + B)
SPECS: Any = {"x": ((3,), "float64"), "w": ((2, 3), "float64"), "b": ((2,), "float64")}


@pytest.fixture(params=[True, False], ids=["binary", "json"])
def g(request: pytest.FixtureRequest) -> Any:
    """A session with h = tanh(w x + b) and loss = sum(h * h)."""
    with gw.local(binary=request.param) as client:
        g = client.session(SPECS)
        h = g.linear(g.w, g.b, g.x).tanh(name="h")
        (h * h).sum(name="loss")
        yield g


def check(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_one_output_is_an_array_and_named_ones_a_dict(g: gw.Session) -> None:
    value = g.function(g["h"])(FEED)
    assert isinstance(value, np.ndarray)
    check(value, H)
    check(g.function("h")(x=X, w=W, b=B), H)
    both = g.function(total=g["loss"], h="h")(FEED)
    assert list(both) == ["total", "h"]
    check(both["total"], np.sum(H * H))
    check(both["h"], H)
    with pytest.raises(TypeError, match="one output, or named ones"):
        g.function(g["h"], loss=g["loss"])  # type: ignore[call-overload] # that is the point


def test_no_output_named_means_the_declared_ones_or_the_last(g: gw.Session) -> None:
    assert list(g.function()(FEED)) == ["loss"]
    g.declare_outputs(hidden="h", loss="loss")
    assert list(g.function()(FEED)) == ["hidden", "loss"]
    check(g.function()(FEED)["hidden"], H)


def test_a_graph_without_values_has_no_output(real: gw.Client) -> None:
    with pytest.raises(errors.NoOutput):
        real.session({"x": (2,)}).function()(x=[1.0, 2.0])


def test_vjp(g: gw.Session) -> None:
    ct = RNG.normal(size=2)
    outputs, gradients = g.function(g["h"]).vjp(ct, **FEED)
    delta = ct * (1 - H * H)
    check(outputs, H)
    assert list(gradients) == ["x", "w", "b"]
    check(gradients["w"], np.outer(delta, X))
    check(gradients["x"], W.T @ delta)
    only = g.function(g["h"]).vjp(ct, wrt="b", **FEED)
    assert list(only.gradients) == ["b"]
    check(only.gradients["b"], delta)


def test_vjp_of_several_outputs(g: gw.Session) -> None:
    f = g.function(loss=g["loss"], h=g["h"])
    ct = RNG.normal(size=2)
    both = f.vjp({"h": ct}, wrt=["b"], inputs=FEED)
    check(both.outputs["h"], H)
    check(both.gradients["b"], ct * (1 - H * H))
    with pytest.raises(errors.MissingCotangent):
        f.vjp(**FEED)
    with pytest.raises(ValueError, match="a function of one output"):
        f.vjp(1.0, **FEED)


def test_value_and_grad(g: gw.Session) -> None:
    value, gradients = g.function(g["loss"]).value_and_grad(wrt=["w", "b"], **FEED)
    check(value, np.sum(H * H))
    assert list(gradients) == ["w", "b"]
    check(gradients["b"], 2 * H * (1 - H * H))


def test_jvp(g: gw.Session) -> None:
    dx = RNG.normal(size=3)
    outputs, tangents = g.function(g["h"]).jvp({"x": dx}, **FEED)
    check(outputs, H)
    check(tangents, (1 - H * H) * (W @ dx))
    named = g.function(h="h").jvp({"x": dx}, inputs=FEED)
    check(named.tangents["h"], tangents)


def hessian_of_loss_by_x() -> Any:
    slope = 2 * (1 - H * H) * (1 - 3 * H * H)  # (h^2)'' where h = tanh
    return W.T @ np.diag(slope) @ W


def test_hvp_is_one_request(g: gw.Session) -> None:
    v = RNG.normal(size=3)
    product = g.function(g["loss"]).hvp({"x": v}, **FEED)
    assert list(product) == ["x"]
    check(product["x"], hessian_of_loss_by_x() @ v)
    rows = g.function("loss").hvp({"x": v}, wrt=["b", "x"], **FEED)
    assert list(rows) == ["b", "x"]
    check(rows["x"], product["x"])


def test_hvp_where_the_derived_names_are_taken(g: gw.Session) -> None:
    g.exp(g.x, name="cotangent.loss")
    unnamed = g["loss"] * 1.0
    v = RNG.normal(size=3)
    for output in (g["loss"], unnamed):
        check(g.function(output).hvp({"x": v}, **FEED)["x"], hessian_of_loss_by_x() @ v)


def test_hvp_of_a_weighted_output(g: gw.Session) -> None:
    v, ones = RNG.normal(size=3), np.ones(2)
    squared = g["h"] * g["h"]
    with pytest.raises(ValueError, match="needs its cotangent"):
        g.function(squared).hvp({"x": v}, **FEED)
    product = g.function(squared).hvp({"x": v}, cotangent=ones, **FEED)
    check(product["x"], hessian_of_loss_by_x() @ v)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_jacobian(g: gw.Session, mode: Any) -> None:
    jacobian = g.function(g["h"]).jacobian(mode=mode, inputs=FEED)
    assert list(jacobian) == ["x", "w", "b"]
    slope = 1 - H * H
    check(jacobian["x"], slope[:, None] * W)
    expected = slope[:, None, None] * np.eye(2)[:, :, None] * X[None, None, :]
    check(jacobian["w"], expected)
    scalar = g.function(g["loss"]).jacobian(["b"], **FEED)
    check(scalar["b"], 2 * H * slope)


def test_hessian(g: gw.Session) -> None:
    hessian = g.function(g["loss"]).hessian(["x", "w"], **FEED)
    assert list(hessian) == list(hessian["x"]) == ["x", "w"]
    check(hessian["x"]["x"], hessian_of_loss_by_x())
    assert hessian["x"]["w"].shape == (3, 2, 3)
    check(hessian["w"]["x"], np.moveaxis(hessian["x"]["w"], 0, -1))
    column = g.function("loss").hvp({"w": np.eye(2, 3)}, wrt=["x"], inputs=FEED)["x"]
    check(np.tensordot(hessian["x"]["w"], np.eye(2, 3), 2), column)
    assert list(g.function("loss").hessian(inputs=FEED)) == ["x", "w", "b"]
    with pytest.raises(ValueError, match="needs a scalar output"):
        g.function("h").hessian(inputs=FEED)
    with pytest.raises(ValueError, match="not mapped again"):
        g.function("loss").vmap(x=0).hessian(inputs=FEED)


def test_what_makes_no_sense_is_said_here(g: gw.Session) -> None:
    f: Any = g.function("loss")
    with pytest.raises(TypeError, match="wrt is a list of input names"):
        f.value_and_grad([g.w], inputs=FEED)
    with pytest.raises(TypeError, match="wrt is a list of input names"):
        f.value_and_grad(FEED)
    for call in (f.jvp, f.hvp):
        with pytest.raises(TypeError, match="tangents are given by name"):
            call([1.0, 0.0, 0.0], inputs=FEED)
    with pytest.raises(ValueError, match="map the function first"):
        f.value_and_grad(reduce="mean", inputs=FEED)
    with pytest.raises(ValueError, match="map the function first"):
        f.hvp({"x": X}, reduce="mean", inputs=FEED)
    with pytest.raises(TypeError, match=r"inputs\['x'\] is made of real numbers or bools, not of"):
        f(x="three", w=W, b=B)
    with pytest.raises(TypeError, match=r"inputs\['x'\].*a handle holds no numbers"):
        f(x=g.x, w=W, b=B)
    with pytest.raises(ValueError, match=r"inputs\['w'\].*inhomogeneous"):
        f(x=X, w=[[1.0], [1.0, 2.0]], b=B)
    session: Any = g
    for output in ([g["h"], g["loss"]], 3):
        with pytest.raises(TypeError, match="several are named"):
            session.function(output)


def test_vmap(g: gw.Session) -> None:
    batch = RNG.normal(size=(4, 3))
    hidden = np.tanh(batch @ W.T + B)
    f = g.function(g["h"]).vmap(x=0)
    check(f(x=batch, w=W, b=B), hidden)
    check(f(x=batch, w=W, b=B, reduce="sum"), hidden.sum(0))
    check(g.function(g["h"]).vmap({"x": 1})(x=batch.T, w=W, b=B), hidden)

    cts = RNG.normal(size=(4, 2))
    delta = cts * (1 - hidden**2)
    per_sample = f.vjp(cts, x=batch, w=W, b=B)
    check(per_sample.gradients["w"], np.einsum("bi,bj->bij", delta, batch))
    summed = f.vjp(cts, wrt=["w", "x"], reduce="sum", x=batch, w=W, b=B)
    check(summed.gradients["w"], delta.T @ batch)
    check(summed.gradients["x"], delta @ W)
    check(summed.outputs, hidden)

    tangents = RNG.normal(size=(4, 3))
    pushed = f.jvp({"x": tangents}, x=batch, w=W, b=B)
    check(pushed.tangents, (1 - hidden**2) * (tangents @ W.T))
    with pytest.raises(ValueError, match="not mapped again"):
        f.jacobian(x=batch, w=W, b=B)


def test_vmap_with_reductions_by_path(g: gw.Session) -> None:
    batch = RNG.normal(size=(4, 3))
    hidden = np.tanh(batch @ W.T + B)
    loss = g.function(loss=g["loss"]).vmap(x=0)
    mean = loss.value_and_grad(["b"], reduce="mean", x=batch, w=W, b=B)
    check(mean.outputs["loss"], np.mean(np.sum(hidden**2, 1)))
    check(mean.gradients["b"], np.mean(2 * hidden * (1 - hidden**2), 0))
    reduce: Any = {"outputs/loss": "sum", "gradients/b": "mean"}
    mixed = loss.vjp(wrt=["b"], reduce=reduce, x=batch, w=W, b=B)
    check(mixed.outputs["loss"], np.sum(hidden**2))
    check(mixed.gradients["b"], mean.gradients["b"])


def test_hvp_under_vmap(g: gw.Session) -> None:
    vs = RNG.normal(size=(5, 3))
    f = g.function(g["loss"]).vmap(x=0)
    products = f.hvp({"x": vs}, x=np.stack([X] * 5), w=W, b=B)
    check(products["x"], vs @ hessian_of_loss_by_x())


def test_inputs_without_names(g: gw.Session) -> None:
    f = g.function(g.tanh(g.x))
    for call in (f, f.linearize):
        with pytest.raises(TypeError, match=r"inputs are given by name, .* not as a ndarray"):
            call(np.asarray(X))  # type: ignore[arg-type] # that is the point


def test_an_option_among_the_inputs(g: gw.Session) -> None:
    f = g.function(g.tanh(g.x))
    with pytest.raises(TypeError, match=r"f\.options\(tier='compiled'\)"):
        f(x=X, tier="compiled")
    with pytest.raises(TypeError, match=r"f\.options\(deadline_ms=5\)"):
        f.linearize(x=X, deadline_ms=5)


def test_options(g: gw.Session) -> None:
    g.log(g.x, name="bad")
    f = g.function("bad").options(nan_policy="error")
    with np.errstate(all="ignore"), pytest.raises(errors.NonFinite) as caught:
        f(x=[-1.0, 1.0, 2.0])
    assert (caught.value.stage, caught.value.name, caught.value.value) == ("forward", "bad", "NaN")
    assert caught.value.source is not None
    assert "test_function.py" in caught.value.source
    slow = f.options(tier="interpreted", deadline_ms=60_000)
    check(slow(x=[1.0, 1.0, 1.0]), [0.0, 0.0, 0.0])
    with pytest.raises(errors.InvalidOption):
        f.options(tier="fast")(x=X)  # type: ignore[arg-type] # that is the point


def test_inputs_are_converted_within_their_kind(g: gw.Session) -> None:
    f = g.function(g.x * 2)
    check(f(x=[1, 2, 3]), [2.0, 4.0, 6.0])
    check(f(x=np.array([1, 2, 3], np.float32)), [2.0, 4.0, 6.0])
    with pytest.raises(errors.InputShapeMismatch) as caught:
        f(x=[1.0])
    assert (caught.value.input, caught.value.expected, caught.value.actual) == ("x", [3], [1])
    with pytest.raises(errors.UnknownInput) as unknown:
        f(xx=[1.0], x=X)
    assert unknown.value.suggestions == ["x"]
    with pytest.raises(errors.MissingInput):
        f()


def test_transforms_make_sessions(g: gw.Session) -> None:
    derived = g.transform("vjp", outputs=["loss"], wrt=["b"])
    gradient = derived.function()({**FEED, "cotangent.loss": 1.0})["gradient.b"]
    check(gradient, 2 * H * (1 - H * H))
    assert any("origin" in node for node in derived.nodes())
    at = g.transform("linearize", outputs=[g["h"]], wrt=["x"], inputs=FEED)
    check(at.function()({"tangent.x": X})["tangent.h"], (1 - H * H) * (W @ X))
    pulled = at.function().vjp({"tangent.h": np.ones(2)}, inputs={"tangent.x": np.zeros(3)})
    check(pulled.gradients["tangent.x"], W.T @ (1 - H * H))


def test_a_fork_goes_its_own_way(g: gw.Session) -> None:
    fork = g.fork(2, name="side")
    y = fork[g["h"]].exp()
    check(fork.function(y)(FEED), np.exp(H))
    with pytest.raises(KeyError):
        _ = fork["loss"]


def test_value_data_gives_a_constant_back(g: gw.Session) -> None:
    value = RNG.normal(size=(40, 50))
    c = g.const(value)
    np.testing.assert_array_equal(g.value_data(c), value)
    assert g.value(c.id, (40, 50))["dtype"] == "float64"
    with pytest.raises(errors.VarShapeMismatch):
        g.value(c.id, (40,))
    assert g.jvp_availability() == {"available": True, "reverse_only": []}


def test_execute_keeps_nothing(real: gw.Client) -> None:
    before = len(list(real.sessions()))
    results = real.execute(
        SPECS,
        [
            {"op": "linear", "inputs": ["w", "b", "x"], "name": "h"},
            {"op": "const", "inputs": [], "attrs": {"value": gw.Literal(np.ones(2))}, "name": "c"},
            {"op": "mul", "inputs": ["h", "c"], "name": "y"},
            {"op": "sum", "inputs": ["y"], "name": "loss"},
        ],
        mode="vjp",
        feed=FEED,
        wrt=["b"],
    )
    assert set(results) == {"outputs", "gradients"}
    check(results["outputs"]["loss"], np.sum(W @ X + B))
    check(results["gradients"]["b"], [1.0, 1.0])
    assert len(list(real.sessions())) == before


def test_the_catalogue(real: gw.Client) -> None:
    assert {"tanh", "conv"} <= {op["name"] for op in real.ops()}
    assert real.op("logSoftmax")["name"] == "log_softmax"
    with pytest.raises(errors.OpNotFound):
        real.op("rleu")
    assert real.limits()["rank"] == 32


def test_results_can_be_written_to(g: gw.Session) -> None:
    value = g.function(g["h"])(FEED)
    value += 1.0


def test_an_async_session_runs(bridge: Bridge) -> None:
    async def job() -> None:
        async with gw.connect_async("http://test", transport=bridge) as client:
            g = await client.session(SPECS)
            h = g.linear(g.w, g.b, g.x)
            z = g.einsum(h, h, spec="i,i->i")
            with pytest.raises(RuntimeError, match="await the handle"):
                _ = z + g.x
            assert (await z).shape == (2,)
            y = (h.tanh() ** 2).sum()
            f = g.function(y)
            value, gradients = await f.value_and_grad(["b"], **FEED)
            check(value, np.sum(H * H))
            check(gradients["b"], 2 * H * (1 - H * H))
            check(await f(FEED), value)
            check((await f.vjp(1.0, wrt=["b"], **FEED)).gradients["b"], gradients["b"])
            check((await f.jvp({"x": np.zeros(3)}, **FEED)).tangents, 0.0)
            check((await f.hvp({"x": X}, **FEED))["x"], hessian_of_loss_by_x() @ X)
            check((await f.jacobian(["b"], **FEED))["b"], gradients["b"])
            check((await f.hessian(["x"], **FEED))["x"]["x"], hessian_of_loss_by_x())
            check((await f.vmap(x=0)(x=X[None], w=W, b=B)), [value])
            await g.declare_outputs(loss=y)
            assert list(g.outputs) == ["loss"]
            fork = await g.fork()
            await fork.refresh()
            derived = await g.transform("vjp", wrt=["b"])
            assert "gradient.b" in derived.outputs
            assert (await client.open(g.id)).version == g.version
            assert g.id in [session["id"] async for session in client.sessions()]
            assert (await g.value(0))["name"] == "x"
            assert len(await g.nodes()) == g.version
            assert (await g.jvp_availability())["available"]
            c = g.const(np.arange(3.0))
            check(await g.value_data(c), [0.0, 1.0, 2.0])
            assert (await client.op("tanh"))["name"] == "tanh"
            assert len(await client.ops()) > 100
            assert (await client.limits())["rank"] == 32
            run = await client.execute(
                {"x": (2,)}, [{"op": "neg", "inputs": [0]}], feed={"x": [1, 2]}
            )
            check(next(iter(run["outputs"].values())), [-1.0, -2.0])
            await g.delete()
            with pytest.raises(errors.SessionNotFound):
                await client.open(g.id)

    asyncio.run(job())


# -- bytes -----------------------------------------------------------------------------------------


def test_large_bodies_go_out_in_slices_with_their_length(script: Script) -> None:
    sizes: list[int] = []
    lengths: list[str] = []

    class Slices(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.SyncByteStream)
            chunks = [bytes(chunk) for chunk in request.stream]
            sizes.extend(map(len, chunks))
            lengths.append(request.headers["Content-Length"])
            assert "Transfer-Encoding" not in request.headers
            plain = httpx.Request(
                request.method, request.url, headers=request.headers, content=b"".join(chunks)
            )
            return script.handle(plain)

    with gw.connect("http://test", transport=Slices()) as client:
        g = client.session({"x": (2,)})
        g.const(np.zeros(1_000_000, np.float32))
    assert max(sizes) == 1 << 20
    assert sum(map(int, lengths)) == sum(sizes)


def test_an_answer_of_unknown_length_is_read_whole() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        def stream() -> Any:
            yield b'{"ops": '
            yield b"[]}"

        return httpx.Response(200, headers={"Content-Type": "application/json"}, content=stream())

    with gw.connect("http://test", transport=httpx.MockTransport(handle)) as client:
        assert client.ops() == []


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", ""])
def test_an_address_needs_its_scheme(url: str) -> None:
    with pytest.raises(ValueError, match="begins with http"):
        gw.connect(url)
