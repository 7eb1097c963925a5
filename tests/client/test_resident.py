"""Resident tensors in Python: kept, referred to, stored by runs, on the real service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

import gradwire as gw
from gradwire import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Bridge, Script

W = np.arange(6, dtype=np.float32).reshape(2, 3)
X = np.array([1, 2, 3], np.float32)


@pytest.fixture(params=[True, False], ids=["binary", "json"])
def local(request: pytest.FixtureRequest) -> Iterator[gw.Client]:
    with gw.local(binary=request.param) as made:
        yield made


def model(local: gw.Client) -> gw.Session:
    """h = w x, loss = sum(h), w_new = w - w."""
    g = local.session({"x": (3,), "w": (2, 3)})
    h = g.einsum(g.w, g.x, spec="ij,j->i", name="h")
    g.sub(g.w, g.w, name="w_new")
    h.sum(name="loss")
    return g


def test_much_as_a_dict(local: gw.Client) -> None:
    tensors = local.tensors
    assert (list(tensors), len(tensors), "w" in tensors) == ([], 0, False)
    tensors["layer/w"] = W
    tensors["b"] = [0.5, 1]
    assert list(tensors) == ["b", "layer/w"]
    assert (len(tensors), "layer/w" in tensors, "layer" in tensors, 3 in tensors) == (
        *(2, True, False, False),
    )
    w = tensors["layer/w"]
    assert (w.name, w.shape, w.dtype, w.nbytes) == ("layer/w", (2, 3), "float32", 24)
    assert w.etag == f'"{w.version}"'
    np.testing.assert_array_equal(w.numpy(), W)
    np.testing.assert_array_equal(np.asarray(w), W)
    assert np.asarray(w, dtype=np.float64).dtype == np.float64
    assert repr(w) == "<ResidentTensor 'layer/w'>"
    first = w.info()
    tensors["layer/w"] = 2 * W
    assert w.version > first.version, "a reference is to the name"
    np.testing.assert_array_equal(w.numpy(), 2 * W)
    tensors["copy"] = w
    np.testing.assert_array_equal(tensors["copy"].numpy(), 2 * W)
    del tensors["layer/w"]
    assert [info.name for info in tensors.infos()] == ["b", "copy"]
    with pytest.raises(errors.TensorNotFound) as refused:
        del tensors["layer/w"]
    assert refused.value.tensor == "layer/w"
    with pytest.raises(errors.TensorNotFound):
        w.numpy()
    with pytest.raises(errors.InvalidName):
        tensors["1w"] = W
    with pytest.raises(TypeError, match=r"tensors\['w'\]"):
        tensors["w"] = "abc"


NEVER = ["", ".", "..", "a/../b", "a//b", "/a", "a/", "a\nb", "a b", "\u00e9", "a%2e", "w" * 201]


@pytest.mark.parametrize("name", NEVER)
def test_names_that_can_never_be(local: gw.Client, name: str) -> None:
    local.tensors["a/b"] = local.tensors["b"] = W
    assert name not in local.tensors
    with pytest.raises(errors.InvalidName, match="name") as refused:
        local.tensors[name] = W
    assert (refused.value.name, bool(refused.value.reason)) == (name, True)
    for use in (local.tensors[name].numpy, lambda: local.tensors.__delitem__(name)):
        with pytest.raises(errors.TensorNotFound, match="none can have that name: ") as missing:
            use()
        assert missing.value.tensor == name
        assert missing.value.reason == refused.value.reason
    g = model(local)
    with pytest.raises(errors.UnknownTensor, match="none can have that name: "):
        g.function("h")(x=X, w=local.tensors[name])
    with pytest.raises(errors.InvalidName, match=r"^store/outputs/h: ") as stored:
        g.function("h")(x=X, w=W, store={"outputs/h": name})
    assert (stored.value.path, stored.value.name) == ("store/outputs/h", name)
    with pytest.raises(errors.InvalidName, match=r"^run/store/outputs/1: "):
        local.execute(
            *({"x": (3,)}, [{"op": "tanh", "inputs": ["x"]}]),
            feed={"x": X},
            store={"outputs/1": name},
        )
    assert list(local.tensors) == ["a/b", "b"]


@pytest.mark.parametrize("name", [3, None, b"w", ("w",)])
def test_names_that_are_no_strings(local: gw.Client, name: Any) -> None:
    assert name not in local.tensors
    named_by = r"a resident tensor is named by a string, as in tensors\['w'\], not by "
    for use in (
        lambda: local.tensors[name],
        lambda: local.tensors.put(name, W),
        lambda: local.tensors.__delitem__(name),
    ):
        with pytest.raises(TypeError, match=named_by):
            use()
    with pytest.raises(TypeError, match=r"store\['outputs/h'\]: " + named_by):
        model(local).function("h")(x=X, w=W, store={"outputs/h": name})


def test_only_in_the_place_of(local: gw.Client) -> None:
    first = local.tensors.put("w", W, new=True)
    with pytest.raises(errors.VersionConflict) as refused:
        local.tensors.put("w", W, new=True)
    assert (refused.value.expected, refused.value.actual) == (0, first.version)
    second = local.tensors.put("w", W + 1, version=first.version)
    assert second.version > first.version
    with pytest.raises(errors.VersionConflict):
        local.tensors.put("w", W, version=first.version)


def test_wherever_a_run_takes_arrays(local: gw.Client) -> None:
    g = model(local)
    local.tensors["w"], local.tensors["x"] = W, X
    local.tensors["ct"] = np.array([1, 0], np.float32)
    w, x, ct = (local.tensors[name] for name in ("w", "x", "ct"))
    h = g.function(g["h"])
    np.testing.assert_allclose(h(x=x, w=w), W @ X)
    np.testing.assert_allclose(h(x=X, w=w), W @ X)
    np.testing.assert_allclose(h.vjp(ct, x=x, w=w).gradients["x"], W[0])
    np.testing.assert_allclose(h.jvp({"x": x}, x=x, w=w).tangents, W @ X)
    np.testing.assert_allclose(h.jacobian(["x"], x=x, w=w)["x"], W)
    local.tensors["xs"] = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(h.vmap(x=0)(x=local.tensors["xs"], w=w), W.T)
    linear = g.transform("linearize", outputs=["h"], wrt=["x"], inputs={"x": x, "w": w})
    np.testing.assert_allclose(linear.function("tangent.h")({"tangent.x": x}), W @ X)
    c = g.const(w)
    assert (c.shape, c.dtype) == ((2, 3), "float32")
    np.testing.assert_allclose(g.value_data(c), W)
    with pytest.raises(errors.UnknownTensor) as refused:
        h(x=local.tensors["xx"], w=w)
    assert refused.value.suggestions == ["x"]
    groups = local.execute(
        {"x": (3,)},
        [
            {"op": "const", "inputs": [], "attrs": {"value": gw.Literal(w)}},
            {"op": "einsum", "inputs": [1, 0], "attrs": {"spec": "ij,j->i"}},
        ],
        feed={"x": x},
        store={"outputs/2": "h"},
    )
    np.testing.assert_allclose(local.tensors["h"].numpy(), W @ X)
    assert repr(groups["outputs"]["2"]) == "<ResidentTensor 'h'>"


def test_results_are_stored(local: gw.Client) -> None:
    g = model(local)
    local.tensors["w"] = W
    w = local.tensors["w"]
    step = g.function(loss=g["loss"], new=g["w_new"])
    before = w.version
    results = step(x=X, w=w, store={"outputs/new": "w"})
    np.testing.assert_allclose(results["loss"], (W @ X).sum())
    stored: Any = results["new"]
    assert stored.name == "w"
    assert stored.version > before
    np.testing.assert_array_equal(w.numpy(), np.zeros_like(W))

    loss = g.function(g["loss"])
    value, gradients = loss.value_and_grad(["w"], x=X, w=W, store={"gradients/w": w})
    np.testing.assert_allclose(value, (W @ X).sum())
    np.testing.assert_allclose(np.asarray(gradients["w"]), np.tile(X, (2, 1)))
    np.testing.assert_allclose(w.numpy(), np.tile(X, (2, 1)))
    alone: Any = g.function("h")(x=X, w=W, store={"outputs/h": "h"})
    np.testing.assert_allclose(alone.numpy(), W @ X)
    _, pushed = g.function("h").jvp({"x": X}, x=X, w=W, store={"tangents/h": "dh"})
    assert np.asarray(pushed).tolist() == (W @ X).tolist()
    for wrong in ("outputs/w_new", "output/loss"):
        with pytest.raises(ValueError, match=f"'{wrong}' is no result .* has outputs/loss"):
            loss(x=X, w=W, store={wrong: "w"})


def test_a_run_that_stores_is_not_repeated(script: Script, g: gw.Session) -> None:
    """Whether it was made nobody knows; made twice, a step would be two steps."""
    g.tanh(g.x)

    def broken(sent: Any) -> Exception:
        return httpx.ReadError("gone")

    script.special = [broken, broken]
    with pytest.raises(errors.ConnectionFailed):
        g.function()(x=[1, 2], store={"outputs/2": "y"})
    assert len(script.special) == 1
    script.sent.clear()
    script.special = [lambda sent: script.refuse("overloaded"), broken]
    with pytest.raises(errors.ConnectionFailed):  # a refusal changed nothing, so that is repeated
        g.function()(x=[1, 2], store={"outputs/2": "y"})
    assert [sent.document["store"] for sent in script.sent] == [{"outputs/2": "y"}] * 2


def test_async(bridge: Bridge) -> None:
    async def run() -> None:
        async with gw.connect_async("http://local", transport=bridge) as client:
            tensors = client.tensors
            info = await tensors.put("async/w", W)
            assert (info.shape, info.dtype) == ((2, 3), "float32")
            assert await tensors.has("async/w")
            assert not await tensors.has("async/v")
            g = await client.session({"x": (3,), "w": (2, 3)})
            g.einsum(g.w, g.x, spec="ij,j->i", name="h")
            c = await g.const(tensors["async/w"])
            assert c.shape == (2, 3)
            h = g.function("h")
            got = await h(x=X, w=tensors["async/w"], store={"outputs/h": "async/h"})
            stored: Any = got
            np.testing.assert_allclose(await stored.numpy(), W @ X)
            assert (await stored.info()).version > info.version
            assert [name async for name in tensors if name.startswith("async/")] == [
                *("async/h", "async/w"),
            ]
            await tensors.delete("async/h")
            with pytest.raises(errors.TensorNotFound):
                await tensors["async/h"].numpy()

    asyncio.run(run())
