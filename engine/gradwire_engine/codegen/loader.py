"""Machine code in memory: object files become functions. Needs llvmlite, not Numba."""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm


class Code:
    """A function of an object file; its memory is given back when nobody holds this any more.

    Args:
        symbol: Which function.
        image: An object file for this machine.

    Attributes:
        address: Where the function is.

    Raises:
        ValueError: The object file does not have the function.
    """

    __slots__ = ("__weakref__", "_engine", "address")

    def __init__(self, symbol: str, image: bytes) -> None:
        self._engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(image))
        self._engine.finalize_object()
        self.address: int = self._engine.get_function_address(symbol)
        if not self.address:
            raise ValueError(f"no {symbol} in the object file")

    def keep(self) -> int:
        """Never give the memory back: threads may run it until the process ends. The address."""
        self._engine.detach()
        return self.address


def target_machine() -> Any:
    """LLVM's view of this machine, every CPU feature included."""
    name, features = cpu()
    return _target().create_target_machine(
        cpu=name,
        features=features,
        opt=3,
        reloc="default",
        codemodel="jitdefault",
    )


@cache
def cpu() -> tuple[str, str]:
    """This processor's name and what it can do, as LLVM says it."""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple()
