"""PyTorch as its users write it: plain functions, `autograd.grad`, `torch.func`, dual numbers."""

# ruff: noqa: D102  the words are described where they are declared, in `cases.Words`

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

from ..cases import EPS, Array, Case, Data
from . import Thunk

torch: Any = import_module("torch")
F: Any = import_module("torch.nn.functional")
dual: Any = import_module("torch.autograd.forward_ad")

Function = Callable[..., Any]


class TorchWords:
    """The vocabulary in `torch` and `torch.nn.functional`."""

    sum = staticmethod(torch.sum)
    mean = staticmethod(torch.mean)
    exp = staticmethod(torch.exp)
    tanh = staticmethod(torch.tanh)
    sigmoid = staticmethod(torch.sigmoid)
    softplus = staticmethod(F.softplus)
    relu = staticmethod(torch.relu)
    gelu = staticmethod(F.gelu)
    matmul = staticmethod(torch.matmul)
    linear = staticmethod(F.linear)
    cross_entropy = staticmethod(F.cross_entropy)
    max_pool = staticmethod(F.max_pool2d)
    avg_pool = staticmethod(F.avg_pool2d)

    def __init__(self, *, fused_attention: bool = False) -> None:
        self.fused_attention = fused_attention

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x, -1)

    def layer_norm(self, x: Any, gamma: Any, beta: Any) -> Any:
        return F.layer_norm(x, gamma.shape, gamma, beta, EPS)

    def dense(self, x: Any, w: Any, b: Any) -> Any:
        return torch.addmm(b, x, w)

    def attention(self, x: Any, wq: Any, wk: Any, wv: Any, wo: Any, heads: int) -> Any:
        n, d = x.shape
        q, k, v = ((x @ w).view(n, heads, d // heads).transpose(0, 1) for w in (wq, wk, wv))
        if self.fused_attention:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(1, 2) * (1 / math.sqrt(d // heads))
            mixed = torch.softmax(scores, -1) @ v
        return mixed.transpose(0, 1).reshape(n, d) @ wo

    def conv(self, x: Any, w: Any, b: Any | None, stride: int, padding: int) -> Any:
        return F.conv2d(x, w, b, stride, padding)

    def flatten(self, x: Any, keep: int) -> Any:
        return torch.flatten(x, keep)


def functions(case: Case) -> Iterator[tuple[str, Function]]:
    """The usual ways to write a case: as a batch, as a mapped sample, with fused attention."""
    yield "", partial(case.function, TorchWords())
    if case.sample is not None:
        mapped = tuple(0 if d.name in case.mapped else None for d in case.inputs)
        each = torch.func.vmap(partial(case.sample, TorchWords()), mapped)
        yield "vmap ", lambda *inputs: each(*inputs).mean()
    if "attention" in case.name or "transformer" in case.name:
        yield "sdpa ", partial(case.function, TorchWords(fused_attention=True))


class Tensors:
    """A case's data as tensors, and its function with only the differentiable inputs left open."""

    def __init__(self, case: Case, data: Data) -> None:
        self.names = case.differentiable
        self.inputs = {name: torch.from_numpy(a) for name, a in data.inputs.items()}
        self.cotangent = torch.from_numpy(data.cotangent)
        self.primals = tuple(self.inputs[name] for name in self.names)
        self.tangents = tuple(torch.from_numpy(data.tangents[name]) for name in self.names)

    def opened(self, function: Function) -> Function:
        """The function of the differentiable inputs alone, for `torch.func`."""
        inputs, names = self.inputs, self.names

        def of_primals(*primals: Any) -> Any:
            return function(*(inputs | dict(zip(names, primals, strict=True))).values())

        return of_primals


def tape(function: Function, t: Tensors) -> Thunk:
    """Reverse mode by autograd's tape, as in a training step."""
    leaves = {name: t.inputs[name].clone().requires_grad_() for name in t.names}
    everything, wrt = tuple((t.inputs | leaves).values()), tuple(leaves.values())

    def thunk() -> Any:
        value = function(*everything)
        return (value.detach(), *torch.autograd.grad(value, wrt, t.cotangent))

    return thunk


def func_vjp(function: Function, t: Tensors) -> Function:
    """Reverse mode by `torch.func.vjp`, a function of primals and cotangent."""
    opened = t.opened(function)

    def run(primals: Any, cotangent: Any) -> Any:
        value, pull = torch.func.vjp(opened, *primals)
        return (value, *pull(cotangent))

    return run


def func_jvp(function: Function, t: Tensors) -> Function:
    """Forward mode by `torch.func.jvp`, a function of primals and tangents."""
    opened = t.opened(function)
    return lambda primals, tangents: torch.func.jvp(opened, primals, tangents)


def dual_numbers(function: Function, t: Tensors) -> Thunk:
    """Forward mode by `torch.autograd.forward_ad`."""
    opened = t.opened(function)

    def thunk() -> Any:
        with dual.dual_level():
            pairs = zip(t.primals, t.tangents, strict=True)
            return dual.unpack_dual(opened(*(dual.make_dual(p, v) for p, v in pairs)))

    return thunk


class Torch:
    """PyTorch without a compiler."""

    def __init__(self, threads: int = 2, **_: Any) -> None:
        torch.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        """PyTorch's."""
        return {"torch": torch.__version__}

    def spellings(
        self, case: Case, mode: str, data: Data
    ) -> Iterator[tuple[str, Callable[[], Thunk]]]:
        """Every usual way, for each usual way to write the function."""
        t = Tensors(case, data)
        for label, f in functions(case):
            if mode == "forward":
                yield f"{label}eager", partial(self.forward, f, t)
            elif mode == "vjp":
                yield f"{label}autograd.grad", partial(tape, f, t)
                yield (
                    f"{label}func.vjp",
                    partial(self.bound, func_vjp(f, t), t.primals, t.cotangent),
                )
            else:
                yield f"{label}func.jvp", partial(self.bound, func_jvp(f, t), t.primals, t.tangents)
                yield f"{label}forward_ad", partial(dual_numbers, f, t)

    def forward(self, function: Function, t: Tensors) -> Thunk:
        """The plain call; nothing requires a gradient."""
        arguments = tuple(t.inputs.values())
        return lambda: function(*arguments)

    def bound(self, run: Function, *arguments: Any) -> Thunk:
        """A call of `run`."""
        return lambda: run(*arguments)

    def arrays(self, result: Any) -> list[Array]:
        """Each tensor as an array."""
        parts = result if isinstance(result, tuple) else (result,)
        return [part.detach().numpy() for part in parts]
