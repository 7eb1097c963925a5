"""PyTorch through `torch.compile`: the forward function, or the whole derivative.

Inductor takes 10 to 40 s a function, and fails on some; its own disk cache keeps what it made, and
a note beside that cache keeps what failed, by version, so that neither is tried twice.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..cases import Case, Data
from . import Thunk
from .torch_eager import Function, Tensors, Torch, func_jvp, func_vjp, functions, tape, torch


def compiled(function: Function) -> Function:
    """The function compiled, under a code object of its own.

    Dynamo keeps what it compiled by code object and looks through all of it at each call; cases
    that share code would slow each other down.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    own = types.FunctionType(
        call.__code__.replace(), call.__globals__, "call", None, call.__closure__
    )
    made: Function = torch.compile(own, dynamic=False)
    return made


class TorchCompile(Torch):
    """PyTorch with Inductor."""

    def __init__(self, threads: int = 2, **_: Any) -> None:
        super().__init__(threads)
        torch._dynamo.config.recompile_limit = 1000
        torch._dynamo.config.accumulated_recompile_limit = 10_000
        self.failures = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "failures.json"

    def spellings(
        self, case: Case, mode: str, data: Data
    ) -> Iterator[tuple[str, Callable[[], Thunk]]]:
        """The compiled function, or its compiled derivative; and a tape over the compiled one."""
        t = Tensors(case, data)
        for label, f in functions(case):
            if mode == "forward":
                makers = {"compile": partial(self.forward, compiled(f), t)}
            elif mode == "vjp":
                whole = compiled(func_vjp(f, t))
                makers = {
                    "compile, autograd.grad": partial(tape, compiled(f), t),
                    "compile(func.vjp)": partial(self.bound, whole, t.primals, t.cotangent),
                }
            else:
                whole = compiled(func_jvp(f, t))
                makers = {"compile(func.jvp)": partial(self.bound, whole, t.primals, t.tangents)}
            for name, make in makers.items():
                key = f"{torch.__version__} {case.name} {mode} {label}{name}"
                yield label + name, partial(self._remembering, key, make)

    def _remembering(self, key: str, make: Callable[[], Thunk]) -> Thunk:
        """What `make` makes, compiled; a failure is noted, and known the next time."""
        known = json.loads(self.failures.read_text()) if self.failures.exists() else {}
        if key in known:
            raise RuntimeError(f"as before: {known[key]}")
        try:
            thunk = make()
            thunk()
        except Exception as error:
            known[key] = f"{type(error).__name__}: {error}"[:300]
            self.failures.write_text(json.dumps(known, indent=1))
            raise
        return thunk
