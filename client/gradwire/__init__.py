"""Gradwire's client: build differentiable graphs on a server, run them, and differentiate them.

    import gradwire as gw

    with gw.connect("http://127.0.0.1:8000") as client:
        g = client.session({"x": (3,), "w": (2, 3), "b": (2,)})
        y = g.linear(g.w, g.b, g.x).tanh().sum()
        f = g.function(y)
        value, gradients = f.value_and_grad(wrt=["w", "b"], x=x, w=w, b=b)

`gw.local()` is the same without a server. What a server refuses comes as a subclass of
`GradwireError`, with all facts; see `gradwire.errors`. The wire contract is `gradwire.wire`.
"""

from __future__ import annotations

from gradwire import errors
from gradwire._client import AsyncClient, Client, connect, connect_async, local
from gradwire._function import AsyncFunction, Function, JvpResult, VjpResult
from gradwire._linear import AsyncLinearization, Linearization
from gradwire._resident import (
    AsyncResidentTensor,
    AsyncResidentTensors,
    ResidentTensor,
    ResidentTensors,
    TensorInfo,
)
from gradwire._session import AsyncSession, Session
from gradwire._tensor import AsyncTensor, Tensor
from gradwire._values import Input, Literal, TensorLike
from gradwire.errors import ConnectionFailed, GradwireError, TimedOut

__all__ = [
    "AsyncClient",
    "AsyncFunction",
    "AsyncLinearization",
    "AsyncResidentTensor",
    "AsyncResidentTensors",
    "AsyncSession",
    "AsyncTensor",
    "Client",
    "ConnectionFailed",
    "Function",
    "GradwireError",
    "Input",
    "JvpResult",
    "Linearization",
    "Literal",
    "ResidentTensor",
    "ResidentTensors",
    "Session",
    "Tensor",
    "TensorInfo",
    "TensorLike",
    "TimedOut",
    "VjpResult",
    "connect",
    "connect_async",
    "errors",
    "local",
]
