"""The Python client against a real server: every method that it promises, over HTTP."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import gradwire as gw
from gradwire import errors
from tests.service.serving import Server

RNG = np.random.default_rng(11)
X, W, B = RNG.normal(size=3), RNG.normal(size=(2, 3)), RNG.normal(size=2)
POINT: dict[str, Any] = {"x": X, "w": W, "b": B}
SPECS: Any = {"x": ((3,), "float64"), "w": ((2, 3), "float64"), "b": ((2,), "float64")}
H = np.tanh(W @ X + B)
SLOPE = 1 - H * H
HESSIAN = W.T @ np.diag(2 * SLOPE * (1 - 3 * H * H)) @ W  # of sum(tanh(w x + b)^2) by x


def check(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def line() -> int:
    """The caller's line."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


@pytest.fixture(scope="module", params=["binary", "json", "local"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[gw.Client]:
    """A client of the real server in either form of body, and one without a server."""
    if request.param == "local":
        made = gw.local()
    else:
        made = gw.connect(server.url, binary=request.param == "binary")
    with made:
        yield made


@pytest.fixture(scope="module")
def g(client: gw.Client) -> gw.Session:
    """A session with h = tanh(w x + b) and loss = sum(h^2)."""
    g = client.session(SPECS)
    with g.batch():
        h = g.linear(g.w, g.b, g.x).tanh(name="h")
        (h**2).sum(name="loss")
    return g


# -- functions -------------------------------------------------------------------------------------


def test_values(g: gw.Session) -> None:
    check(g.function("loss")(POINT), np.sum(H * H))
    both = g.function(total=g["loss"], hidden=g["h"])(**POINT)
    assert list(both) == ["total", "hidden"]
    check(both["hidden"], H)


def test_reverse_and_forward_mode_agree(g: gw.Session) -> None:
    f, dx, ct = g.function("h"), RNG.normal(size=3), RNG.normal(size=2)
    outputs, gradients = f.vjp(ct, wrt=["x"], **POINT)
    pushed = f.jvp({"x": dx}, **POINT)
    check(outputs, H)
    check(pushed.outputs, H)
    check(pushed.tangents, SLOPE * (W @ dx))
    check(gradients["x"] @ dx, ct @ pushed.tangents)
    value, gradients = g.function("loss").value_and_grad(["b"], inputs=POINT)
    check(value, np.sum(H * H))
    check(gradients["b"], 2 * H * SLOPE)


def test_second_derivatives(g: gw.Session) -> None:
    f, v = g.function("loss"), RNG.normal(size=3)
    check(f.hvp({"x": v}, **POINT)["x"], HESSIAN @ v)
    check(f.hessian(["x"], **POINT)["x"]["x"], HESSIAN)
    check(g.function("h").jacobian(["x"], **POINT)["x"], SLOPE[:, None] * W)


def test_mapped_runs_and_reductions(g: gw.Session) -> None:
    batch = RNG.normal(size=(5, 3))
    hidden = np.tanh(batch @ W.T + B)
    delta = 2 * hidden * (1 - hidden**2)
    f = g.function("loss").vmap(x=0)
    check(f(x=batch, w=W, b=B), (hidden**2).sum(1))
    each = f.value_and_grad(["w", "x"], x=batch, w=W, b=B)
    check(each.gradients["w"], np.einsum("bi,bj->bij", delta, batch))
    mean = f.value_and_grad(["w", "x"], reduce="mean", x=batch, w=W, b=B)
    check(mean.outputs, (hidden**2).sum(1).mean())
    check(mean.gradients["w"], each.gradients["w"].mean(0))
    check(mean.gradients["x"], each.gradients["x"])
    directions = RNG.normal(size=(4, 3))
    products = f.hvp({"x": directions}, x=np.stack([X] * 4), w=W, b=B)
    check(products["x"], directions @ HESSIAN)


def test_transforms(g: gw.Session) -> None:
    gradient = g.transform("vjp", outputs=["loss"], wrt=["x"])
    f = gradient.function("gradient.x")
    check(f({**POINT, "cotangent.loss": 1.0}), 2 * H * SLOPE @ W)
    check(f.jacobian(["x"], inputs={**POINT, "cotangent.loss": 1.0})["x"], HESSIAN)

    at = g.transform("linearize", outputs=["h"], wrt=["x"], inputs=POINT)
    dx, ct = RNG.normal(size=3), RNG.normal(size=2)
    check(at.function("tangent.h")({"tangent.x": dx}), SLOPE * (W @ dx))
    pullback = at.transform("vjp").function("gradient.tangent.x")
    check(pullback({"cotangent.tangent.h": ct}), W.T @ (SLOPE * ct))

    mapped = g.transform("vmap", axis_size=4, in_axes={"x": 0})
    batch = RNG.normal(size=(4, 3))
    check(mapped.function("h")(x=batch, w=W, b=B), np.tanh(batch @ W.T + B))


def test_a_session_is_found_again(client: gw.Client) -> None:
    g = client.session({"x": (2,)}, name="again")
    g.declare_outputs(y=g.x.exp(name="e"))
    again = client.open("again")
    assert (again.id, again.version, again["e"].shape) == (g.id, 1, (2,))
    assert list(again.outputs) == ["y"]
    check(again.function()(x=[0.0, 1.0])["y"], np.exp([0.0, 1.0]), 1e-6)
    again["e"].sum(name="s")
    assert g.refresh()["s"].shape == ()
    assert g.fork(1).version == 1
    assert "again" in [summary["name"] for summary in client.sessions()]
    again.delete()
    with pytest.raises(errors.SessionNotFound):
        client.open("again")


# -- models as they are written elsewhere ----------------------------------------------------------


def test_logistic_regression_learns(client: gw.Client) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(100, 4))
    labels = (points @ rng.normal(size=4) > 0).astype(float)
    g = client.session({"x": (4,), "y": (), "w": (4,), "b": ()})
    logit = g.w @ g.x + g.b
    step = g.function(g.softplus(logit) - g.y * logit).vmap(x=0, y=0)
    weights: dict[str, Any] = {"w": np.zeros(4), "b": 0.0}
    losses = []
    for _ in range(30):
        loss, gradients = step.value_and_grad(
            ["w", "b"], reduce="mean", inputs={"x": points, "y": labels, **weights}
        )
        losses.append(float(loss))
        weights = {name: weights[name] - gradients[name] for name in weights}
    check(losses[0], np.log(2), 1e-6)
    assert losses[-1] < 0.3
    predicted = g.function(logit).vmap(x=0)(x=points, **weights) > 0
    assert np.mean(predicted == labels) > 0.95


def test_a_convolutional_network_with_a_mask_per_sample(client: gw.Client) -> None:
    shapes: Any = {"k": (4, 1, 3, 3), "kb": (4,), "gamma": (4,), "beta": (4,), "w": (3, 16)}
    g = client.session(
        {"image": (1, 4, 4), "label": ((), "int64"), "seed": ((), "int64"), "b": (3,), **shapes}
    )
    with g.batch():
        h = g.conv(g.k, g.kb, g.image, padding=1)
        h = g.batchnorm_channel_first(h, g.gamma, g.beta).relu().max_pool(2).flatten()
        mask = g.bernoulli_mask(0.5, g.seed, shape=(16,), name="mask")
        loss = g.cross_entropy(g.linear(g.w, g.b, h * mask / 0.5), g.label)
        assert (g.version, loss.shape) == (0, ()), "one request, and shapes without asking"
    rng = np.random.default_rng(1)
    weights = {n: rng.normal(size=s) for n, s in {**shapes, "b": (3,)}.items()}
    samples = {
        "image": rng.normal(size=(6, 1, 4, 4)),
        "label": rng.integers(0, 3, 6),
        "seed": np.arange(6),
    }
    masks = g.function("mask").vmap(seed=0)(seed=samples["seed"])
    assert len({mask.tobytes() for mask in masks}) > 1
    f = g.function(loss)
    alone = [
        f.value_and_grad(["k", "w"], inputs={n: s[i] for n, s in samples.items()} | weights)
        for i in range(6)
    ]
    mean = f.vmap(image=0, label=0, seed=0).value_and_grad(
        ["k", "w"], reduce="mean", inputs={**samples, **weights}
    )
    check(mean.outputs, np.mean([one.outputs for one in alone]), 1e-5)
    for name in ("k", "w"):
        check(mean.gradients[name], np.mean([one.gradients[name] for one in alone], 0), 1e-5)


def test_an_attention_block(client: gw.Client) -> None:
    n, d = 5, 8
    square = ((d, d), "float64")
    names = ("wq", "wk", "wv", "wo")
    vector = ((d,), "float64")
    g = client.session(
        {"x": ((n, d), "float64"), "gamma": vector, "beta": vector, **dict.fromkeys(names, square)}
    )
    with g.batch():
        y = g.layer_norm(g.x, g.gamma, g.beta)
        q, k, v = y @ g.wq, y @ g.wk, y @ g.wv
        heads = [
            (q[:, s] @ k[:, s].T / np.sqrt(d // 2)).softmax() @ v[:, s]
            for s in (slice(0, d // 2), slice(d // 2, None))
        ]
        by_hand = g.x + g.concat(heads, axis=1) @ g.wo
        whole = g.x + g.multi_head_attention(g.wq, g.wk, g.wv, g.wo, y, num_heads=2)
    rng = np.random.default_rng(2)
    feed = {name: rng.normal(size=g[name].shape) for name in g.inputs}
    both = g.function(by_hand=by_hand, whole=whole)
    ct = rng.normal(size=(n, d))
    a = both.vjp({"by_hand": ct}, inputs=feed)
    b = both.vjp({"whole": ct}, inputs=feed)
    check(a.outputs["by_hand"], b.outputs["whole"])
    for name in g.inputs:
        check(a.gradients[name], b.gradients[name])


def test_200_ops_are_one_request(server: Server) -> None:
    sent: list[str] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(f"{request.method} {request.url.path}")
            return super().handle_request(request)

    with gw.connect(server.url, transport=Counting()) as client:
        g = client.session({"x": (4,), "w": (4, 4), "b": (4,)})
        with g.batch():
            h = g.x
            for _ in range(40):
                h = (g.linear(g.w, g.b, h) * 0.5 + 1).tanh().maximum(0)
        assert g.version >= 200
        assert sent == ["POST /v1/sessions", f"POST /v1/sessions/{g.id}/nodes"]
        x, w, b = np.ones(4), np.eye(4), np.zeros(4)
        for _ in range(40):
            x = np.maximum(np.tanh((w @ x + b) * 0.5 + 1), 0)
        check(g.function(h)(x=np.ones(4), w=w, b=b), x, 1e-5)


# -- errors ----------------------------------------------------------------------------------------


def refused(kind: type[errors.GradwireError], build: Callable[[], object]) -> Any:
    with pytest.raises(kind) as caught:
        build()
    return caught.value


def test_a_refusal_names_the_line(g: gw.Session) -> None:
    version, lines = g.refresh().version, list[int]()

    def alone() -> None:
        lines.append(line() + 1)
        g.matmul(g.w, g.x)

    def in_a_batch() -> None:
        with g.batch():
            h = g.x + 1
            lines.append(line() + 1)
            h = g.w @ (h @ h)
            g.exp(h)

    for build in (alone, in_a_batch):
        error = refused(errors.ShapeMismatch, build)
        assert error.source.endswith(f"test_client.py:{lines[-1]}")
        assert error.source in str(error)
        assert (error.op, error.operand) == ("matmul", "b")
    assert g.refresh().version == version


def test_a_run_names_the_line_that_appended_the_node(g: gw.Session) -> None:
    y, here = g.log(g.x - 100.0, name=None), line()
    error = refused(errors.NonFinite, lambda: g.function(y).options(nan_policy="error")(x=X))
    assert error.source.endswith(f"test_client.py:{here}")
    assert (error.stage, error.op, error.value) == ("forward", "log", "NaN")


def test_mistakes_in_runs(g: gw.Session, client: gw.Client) -> None:
    f = g.function("h")
    missing = refused(errors.MissingInput, lambda: f(x=X, w=W))
    assert missing.input == "b"
    batched = refused(errors.InputShapeMismatch, lambda: f(x=np.ones((10, 3)), w=W, b=B))
    assert (batched.input, batched.expected, batched.actual) == ("x", [3], [10, 3])
    unknown = refused(errors.UnknownInput, lambda: f(x=X, w=W, b=B, xx=X))
    assert unknown.suggestions == ["x"]
    forgotten = refused(errors.MissingCotangent, lambda: f.vjp(**POINT))
    assert forgotten.outputs == ["h"]
    wrong = refused(errors.CotangentShapeMismatch, lambda: f.vjp([1.0], **POINT))
    assert (wrong.expected, wrong.actual) == ([2], [1])
    foreign = client.session({"x": (3,)})
    with pytest.raises(ValueError, match="another session"):
        g.tanh(foreign.x)
    misspelt = refused(errors.UnknownOp, lambda: g.append([{"op": "tahn", "inputs": ["x"]}]))
    assert "tanh" in misspelt.suggestions
    stale = refused(
        errors.VarShapeMismatch,
        lambda: g.append([{"op": "exp", "inputs": [{"id": g.x.id, "shape": [2]}]}]),
    )
    assert (stale.expected, stale.actual) == ([2], [3])


def test_float64_arrays_go_into_a_float32_session(client: gw.Client) -> None:
    g = client.session({"x": (3,), "k": ((), "int64")})
    value, gradients = g.function((g.x * np.ones(3)).sum()).value_and_grad(x=np.ones(3))
    assert value.dtype == gradients["x"].dtype == np.float32
    error = refused(errors.InputDtypeMismatch, lambda: g.function(g.k * 2)(k=1.5))
    assert (error.input, error.expected) == ("k", "int64")


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with gw.connect(url, attempts=1) as client:
        error = refused(gw.ConnectionFailed, lambda: client.session({"x": ()}))
    assert url in str(error)


# -- async -----------------------------------------------------------------------------------------


def test_the_async_client(server: Server) -> None:
    async def job() -> None:
        async with gw.connect_async(server.url) as client:
            g = await client.session(SPECS)
            async with g.batch():
                h = g.linear(g.w, g.b, g.x).tanh(name="h")
                loss = (h**2 + 0).sum(name="loss")
            assert g.version == loss.id - 2
            f = g.function(loss)
            v, batch = RNG.normal(size=3), RNG.normal(size=(4, 3))
            values = asyncio.gather(*(f(x=x, w=W, b=B) for x in batch))
            mapped = f.vmap(x=0)(x=batch, w=W, b=B)
            check(await values, await mapped)
            value, gradients = await f.value_and_grad(["b"], **POINT)
            check(value, np.sum(H * H))
            check(gradients["b"], 2 * H * SLOPE)
            check((await f.jvp({"x": v}, **POINT)).tangents, 2 * H * SLOPE @ W @ v)
            check((await f.hvp({"x": v}, **POINT))["x"], HESSIAN @ v)
            check((await f.hessian(["x"], **POINT))["x"]["x"], HESSIAN)
            check((await g.function("h").jacobian(["b"], **POINT))["b"], np.diag(SLOPE))
            ct = np.array([1.0, 0.0])
            pulled = await g.function(g["h"]).vjp(ct, wrt=["b"], **POINT)
            check(pulled.gradients["b"], SLOPE * ct)
            at = await g.transform("linearize", outputs=[h], wrt=["x"], inputs=POINT)
            check(await at.function("tangent.h")({"tangent.x": v}), SLOPE * (W @ v))

            bad, here = g.matmul(g.w, g.x), line()
            with pytest.raises(errors.ShapeMismatch) as caught:
                await bad
            assert str(caught.value.source).endswith(f"test_client.py:{here}")
            with pytest.raises(RuntimeError, match="does not exist"):
                await bad
            assert (await g.refresh()).version == g.version
            again = await client.open(g.id)
            await again.delete()
            with pytest.raises(errors.SessionNotFound):
                await client.open(g.id)

    asyncio.run(job())
