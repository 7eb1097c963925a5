"""From kernel source to machine code: Numba makes LLVM IR of it, LLVM makes an object file.

The object needs nothing of Numba to run: kernels allocate nothing, raise nothing and call only each
other's inlined code and a few functions of the C library, so that a process can load it with
llvmlite alone.
"""

from __future__ import annotations

import ctypes
import linecache
from typing import Any

import llvmlite.binding as llvm
import numba

from .loader import target_machine

SIGNATURE = "void(intp, intp, intp, intp, intp)"
FLAGS = {"contract"}


def define(text: str, name: str = "kernel") -> Any:
    """The Python function ``kernel`` that source text defines; tracebacks show the text."""
    return _define(text, name)["kernel"]


def _define(text: str, name: str) -> dict[str, Any]:
    filename = f"<gradwire {name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {"__name__": "gradwire_engine.codegen.generated"}
    exec(compile(text, filename, "exec"), scope)  # text that this package wrote
    return scope


def to_object(text: str) -> tuple[str, bytes]:
    """Compile source text for this machine: the symbol of its kernel, and an object file.

    Text that defines ``signature``, in Numba's notation, defines a kernel of those types.

    Raises:
        ImportError: The code calls what a process without Numba does not have.
    """
    scope = _define(text, "kernel")
    signature = scope.get("signature", SIGNATURE)
    # Inlined into its wrapper, or the path on which the wrapper reports an exception would stay.
    settings = {"fastmath": FLAGS, "error_model": "numpy", "forceinline": True}
    compiled = numba.cfunc(signature, **settings)(scope["kernel"])
    module = llvm.parse_assembly(compiled.inspect_llvm())
    process = ctypes.CDLL(None)
    for function in module.functions:
        name = function.name
        if function.is_declaration and not name.startswith("llvm.") and not hasattr(process, name):
            raise ImportError(f"the compiled code would call {name}")
    return compiled.native_name, target_machine().emit_object(module)
