"""Linearizations in Python: one forward pass, then any number of pushes and pulls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import gradwire as gw
from gradwire import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Bridge

RNG = np.random.default_rng(5)
X, W = RNG.normal(size=3), RNG.normal(size=(2, 3))
POINT: dict[str, Any] = {"x": X, "w": W}
H = np.tanh(W @ X)
J = (1 - H**2)[:, None] * W


@pytest.fixture(params=[True, False], ids=["binary", "json"])
def local(request: pytest.FixtureRequest) -> Iterator[gw.Client]:
    with gw.local(binary=request.param) as client:
        yield client


def model(client: gw.Client) -> gw.Session:
    """h = tanh(w x), s = sum(h), top = argmax(h)."""
    g = client.session({"x": ((3,), "float64"), "w": ((2, 3), "float64")})
    h = g.einsum(g.w, g.x, spec="ij,j->i").tanh(name="h")
    h.sum(name="s")
    g.argmax(h, axis=0, name="top")
    return g


def check(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_push_and_pull(local: gw.Client) -> None:
    f = model(local).function("h")
    with f.linearize(wrt=["x"], inputs=POINT) as lin:
        assert (lin.inputs, lin.outputs) == (["x"], ["h"])
        v, ct = RNG.normal(size=3), RNG.normal(size=2)
        check(lin.pushforward(x=v), J @ v)
        check(lin.pushforward({"x": v}), J @ v)
        check(lin.pullback(ct)["x"], ct @ J)
        check(lin.pullback(h=ct)["x"], ct @ J)
        check(lin.pullback({"h": ct})["x"], ct @ J)
        assert local.open(lin.session).inputs.keys() == {"tangent.x"}


def test_many_at_once(local: gw.Client) -> None:
    with model(local).function("h").linearize(wrt=["x"], inputs=POINT) as lin:
        check(lin.pushforward(x=np.eye(3)), J.T)
        check(lin.pullback(np.eye(2))["x"], J)
        assert lin.pullback(np.zeros((0, 2)))["x"].shape == (0, 3)


def test_several_inputs_and_outputs(local: gw.Client) -> None:
    g = model(local)
    f = g.function(hidden=g["h"], total="s", top="top")
    jvp = f.jvp({"x": X}, inputs=POINT).tangents
    with f.linearize(POINT) as lin:
        assert (lin.inputs, lin.outputs) == (["x", "w"], ["hidden", "total"])
        pushed = lin.pushforward(x=X)  # that of w is left out, so zero
        assert list(pushed) == list(jvp) == ["hidden", "total"]
        for key in jvp:
            check(pushed[key], jvp[key])
        both = lin.pushforward(x=np.stack([X, X]), w=W)  # many of one, one of the other
        check(both["hidden"], [J @ X + (1 - H**2) * (W @ X)] * 2)
        ct = RNG.normal(size=2)
        expected = f.vjp({"hidden": ct, "total": 2.0}, inputs=POINT).gradients
        pulled = lin.pullback({"hidden": ct}, total=2.0)
        assert list(pulled) == ["x", "w"]
        for name, gradient in expected.items():
            check(pulled[name], gradient)
        check(lin.pullback(total=np.array([1.0, 3.0]))["x"], [J.sum(0), 3 * J.sum(0)])


def test_an_output_by_its_id(local: gw.Client) -> None:
    g = local.session({"x": ((3,), "float64")})
    f = g.function(g.x * g.x)
    with f.linearize(x=X) as lin:
        check(lin.pushforward(x=[1, 0, 0]), [2 * X[0], 0, 0])
        check(lin.pullback([1, 1, 1])["x"], 2 * X)


def test_with_resident_tensors(local: gw.Client) -> None:
    local.tensors["w"], local.tensors["v"] = W, X
    f = model(local).function("h")
    with f.linearize(wrt=["x"], x=X, w=local.tensors["w"]) as lin:
        local.tensors["w"] = 0 * W
        check(lin.pushforward(x=local.tensors["v"]), J @ X)


def test_what_makes_no_sense(local: gw.Client) -> None:
    g = model(local)
    both = g.function(h="h", s="s")
    with both.linearize(POINT) as lin:
        with pytest.raises(ValueError, match="h, s"):
            lin.pullback([1, 0])
        with pytest.raises(ValueError, match="at least one cotangent"):
            lin.pullback()
        with pytest.raises(ValueError, match="at least one tangent"):
            lin.pushforward()
        with pytest.raises(KeyError, match="'z'"):
            lin.pushforward(z=X)
        with pytest.raises(KeyError, match="'top'"):
            lin.pullback(top=1)
        with pytest.raises(errors.InputShapeMismatch):
            lin.pushforward(x=[1.0, 2.0])
    with pytest.raises(ValueError, match="mapped"):
        both.vmap(x=0).linearize(POINT)
    with pytest.raises(errors.MissingInput):
        both.linearize(x=X)
    with pytest.raises(errors.UnknownInput):
        both.linearize(POINT, wrt=["z"])
    with pytest.raises(errors.NotDifferentiable):
        g.function("top").linearize(POINT)


def test_its_end(local: gw.Client) -> None:
    lin = model(local).function("h").linearize(POINT)
    count = len(list(local.sessions()))
    lin.close()
    lin.close()
    assert len(list(local.sessions())) == count - 1
    with pytest.raises(errors.SessionNotFound) as ended:
        lin.pushforward(x=X)
    assert ended.value.expired_at is None
    assert ended.value.session == lin.session
    assert str(ended.value) == "this linearization was closed or deleted; linearize makes another."
    assert lin.session in repr(lin)


def test_async(bridge: Bridge) -> None:
    async def run() -> None:
        async with gw.connect_async("http://local", transport=bridge) as client:
            g = await client.session({"x": ((3,), "float64"), "w": ((2, 3), "float64")})
            h = await g.einsum(g.w, g.x, spec="ij,j->i")
            f = g.function(h.tanh(name="h"))
            async with await f.linearize(POINT, wrt=["x"]) as lin:
                check(await lin.pushforward(x=np.eye(3)), J.T)
                check((await lin.pullback([1, 0]))["x"], J[0])
            with pytest.raises(errors.SessionNotFound):
                await lin.pullback(h=[1, 0])

    asyncio.run(run())
