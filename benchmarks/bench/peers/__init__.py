"""Ours and the peers, each behind the same small face; `PEERS` finds them by name.

A peer says in which ways its users would usually write a case (`spellings`); the fastest of them at
warm-up is the one that is timed. Each runs in a process of its own, so only that process imports
its library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Protocol

from ..cases import Array, Case, Data

Thunk = Callable[[], Any]


class Peer(Protocol):
    """What a child process asks of the library that it holds."""

    def versions(self) -> dict[str, str]:
        """The libraries in use."""

    def spellings(
        self, case: Case, mode: str, data: Data
    ) -> Iterator[tuple[str, Callable[[], Thunk]]]:
        """Names, and makers of what is timed: one public call, done when it returns.

        A mode that the peer does not have yields nothing.
        """

    def arrays(self, result: Any) -> list[Array]:
        """The answer in NumPy: the value, then all gradients or the value's tangent."""


PEERS = {
    "ours": "ours:Ours",
    "torch": "torch_eager:Torch",
    "torch.compile": "torch_compiled:TorchCompile",
    "jax": "jax_jit:Jax",
    "onnxruntime": "onnx_session:OnnxRuntime",
}
"""Where each peer's class is. Best of: torch, torch.compile and jax; onnxruntime stands beside."""

RIVALS = ("torch", "torch.compile", "jax")


def make(name: str, **options: Any) -> Peer:
    """The peer of that name, its library imported.

    Raises:
        ImportError: The library is not installed.
    """
    module, _, attribute = PEERS[name].partition(":")
    peer: Peer = getattr(import_module(f".{module}", __name__), attribute)(**options)
    return peer
