"""JAX: `jax.jit` of the function, of its VJP, of its JVP; done when the result is ready."""

# ruff: noqa: D102  the words are described where they are declared, in `cases.Words`

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from ..cases import EPS, Array, Case, Data
from . import Thunk

jax: Any = import_module("jax")
jnp: Any = import_module("jax.numpy")

Function = Callable[..., Any]


class JaxWords:
    """The vocabulary in `jax.numpy`, `jax.nn` and `jax.lax`."""

    sum = staticmethod(jnp.sum)
    mean = staticmethod(jnp.mean)
    exp = staticmethod(jnp.exp)
    tanh = staticmethod(jnp.tanh)
    sigmoid = staticmethod(jax.nn.sigmoid)
    softplus = staticmethod(jax.nn.softplus)
    relu = staticmethod(jax.nn.relu)
    gelu = staticmethod(partial(jax.nn.gelu, approximate=False))
    matmul = staticmethod(jnp.matmul)

    def __init__(self, *, by_reshape: bool = False, fused_attention: bool = False) -> None:
        self.by_reshape, self.fused_attention = by_reshape, fused_attention

    def softmax(self, x: Any) -> Any:
        return jax.nn.softmax(x, -1)

    def layer_norm(self, x: Any, gamma: Any, beta: Any) -> Any:
        mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + EPS) * gamma + beta

    def dense(self, x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        return x @ w.T + b

    def attention(self, x: Any, wq: Any, wk: Any, wv: Any, wo: Any, heads: int) -> Any:
        n, d = x.shape
        q, k, v = ((x @ w).reshape(n, heads, d // heads) for w in (wq, wk, wv))
        if self.fused_attention:
            mixed = jax.nn.dot_product_attention(q, k, v)
        else:
            scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(d // heads)
            mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores, -1), v)
        return mixed.reshape(n, d) @ wo

    def conv(self, x: Any, w: Any, b: Any | None, stride: int, padding: int) -> Any:
        batch = x if x.ndim == 4 else x[None]
        y = jax.lax.conv(batch, w, (stride, stride), [(padding, padding)] * 2)
        if b is not None:
            y = y + b[:, None, None]
        return y if x.ndim == 4 else y[0]

    def _windows(self, x: Any, kernel: int, stride: int, initial: float, add: Any) -> Any:
        lead = (1,) * (x.ndim - 2)
        sizes, steps = (*lead, kernel, kernel), (*lead, stride, stride)
        return jax.lax.reduce_window(x, initial, add, sizes, steps, "VALID")

    def _apart(self, x: Any, kernel: int, stride: int) -> Any | None:
        """Windows that do not overlap, as axes of their own."""
        *lead, h, w = x.shape
        if not self.by_reshape or kernel != stride or h % kernel or w % kernel:
            return None
        return x.reshape(*lead, h // kernel, kernel, w // kernel, kernel)

    def max_pool(self, x: Any, kernel: int, stride: int) -> Any:
        apart = self._apart(x, kernel, stride)
        if apart is not None:
            return apart.max((-3, -1))
        return self._windows(x, kernel, stride, -jnp.inf, jax.lax.max)

    def avg_pool(self, x: Any, kernel: int, stride: int) -> Any:
        apart = self._apart(x, kernel, stride)
        if apart is not None:
            return apart.mean((-3, -1))
        return self._windows(x, kernel, stride, 0.0, jax.lax.add) / kernel**2

    def flatten(self, x: Any, keep: int) -> Any:
        return x.reshape(*x.shape[:keep], -1)

    def cross_entropy(self, logits: Any, labels: Any) -> Any:
        scores = jax.nn.log_softmax(logits, -1)
        return -jnp.mean(jnp.take_along_axis(scores, labels[..., None], -1))


def functions(case: Case) -> Iterator[tuple[str, Function]]:
    """The usual ways to write a case: as a batch, as a mapped sample, with other pools..."""
    yield "", partial(case.function, JaxWords())
    if case.family == "pooling" or case.sample is not None:
        yield "reshape ", partial(case.function, JaxWords(by_reshape=True))
    if case.sample is not None:
        mapped = tuple(0 if d.name in case.mapped else None for d in case.inputs)
        each = jax.vmap(partial(case.sample, JaxWords()), mapped)
        yield "vmap ", lambda *inputs: jnp.mean(each(*inputs))
    if "attention" in case.name or "transformer" in case.name:
        yield "fused ", partial(case.function, JaxWords(fused_attention=True))


def derivative(case: Case, mode: str, function: Function) -> Function:
    """From inputs and directions (nothing, the cotangent, or tangents by name) to the answer."""

    def opened(inputs: dict[str, Any]) -> tuple[Function, tuple[Any, ...]]:
        def of_primals(*primals: Any) -> Any:
            given = inputs | dict(zip(case.differentiable, primals, strict=True))
            return function(*(given[d.name] for d in case.inputs))

        return of_primals, tuple(inputs[name] for name in case.differentiable)

    def forward(inputs: dict[str, Any], _: Any) -> Any:
        return (function(*(inputs[d.name] for d in case.inputs)),)

    def vjp(inputs: dict[str, Any], cotangent: Any) -> Any:
        of_primals, primals = opened(inputs)
        value, pull = jax.vjp(of_primals, *primals)
        return (value, *pull(cotangent))

    def jvp(inputs: dict[str, Any], tangents: dict[str, Any]) -> Any:
        of_primals, primals = opened(inputs)
        return jax.jvp(of_primals, primals, tuple(tangents[n] for n in case.differentiable))

    return {"forward": forward, "vjp": vjp, "jvp": jvp}[mode]


class Jax:
    """JAX on the CPU."""

    def __init__(self, **_: Any) -> None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

    def versions(self) -> dict[str, str]:
        """JAX's."""
        return {"jax": jax.__version__}

    def _arguments(self, mode: str, data: Data) -> tuple[dict[str, Any], Any]:
        """Device arrays; 64-bit labels become 32-bit ones, as everywhere in JAX."""

        def device(array: Array) -> Any:
            return jnp.asarray(array.astype(np.int32) if array.dtype == np.int64 else array)

        inputs = {name: device(a) for name, a in data.inputs.items()}
        directions = {
            "forward": None,
            "vjp": device(data.cotangent),
            "jvp": {name: device(a) for name, a in data.tangents.items()},
        }
        return inputs, directions[mode]

    def spellings(
        self, case: Case, mode: str, data: Data
    ) -> Iterator[tuple[str, Callable[[], Thunk]]]:
        """`jax.jit` of each usual way to write the function."""
        inputs, directions = self._arguments(mode, data)

        def made(function: Function) -> Thunk:
            run = jax.jit(derivative(case, mode, function))
            return lambda: jax.block_until_ready(run(inputs, directions))

        for label, function in functions(case):
            yield f"{label}jit", partial(made, function)

    def memory(self, case: Case, mode: str, data: Data) -> int:
        """Bytes of temporaries and outputs of the leanest spelling, by XLA's own analysis."""
        inputs, directions = self._arguments(mode, data)
        needs = []
        for _, function in functions(case):
            run = jax.jit(derivative(case, mode, function))
            found = run.lower(inputs, directions).compile().memory_analysis()
            needs.append(int(found.temp_size_in_bytes + found.output_size_in_bytes))
        return min(needs)

    def arrays(self, result: Any) -> list[Array]:
        """Each device array as an array."""
        return [np.asarray(part) for part in result]
