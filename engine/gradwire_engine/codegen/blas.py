"""Matrix products inside kernels: the address of SciPy's BLAS, held to one thread.

Kernels run side by side already, so a product inside one must not start threads of its own. SciPy
and NumPy wheels bring a BLAS each: this module quiets SciPy's and leaves NumPy's, which the
interpreted tier uses, as it is. The library is found through the extension module of SciPy that is
linked to it, without importing `scipy.linalg`, which takes a quarter of a second.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from importlib.machinery import PathFinder

_NAMES = {"float32": ("scipy_sgemm_", "sgemm_"), "float64": ("scipy_dgemm_", "dgemm_")}

_SETTERS = (
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
    "bli_thread_set_num_threads",
)
"""What a BLAS may call the function that sets its number of threads."""


@cache
def gemm_address(dtype: str) -> int:
    """The address of a matrix product in the Fortran calling convention of BLAS.

    It takes ``(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)``, all by address:
    characters for the flags, 32-bit integers for the sizes. Matrices are column-major.

    Args:
        dtype: ``float32`` or ``float64``.

    Raises:
        ImportError: SciPy is not there, or offers no BLAS with 32-bit sizes.
    """
    library = _library()
    for name in _NAMES[dtype]:
        if hasattr(library, name):
            return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
    raise ImportError(f"SciPy's BLAS has none of {', '.join(_NAMES[dtype])}")


@cache
def _library() -> ctypes.CDLL:
    """The extension module that is linked to SciPy's BLAS, whose symbols it gives."""
    scipy = importlib.util.find_spec("scipy")
    folders = [f"{path}/linalg" for path in (scipy and scipy.submodule_search_locations) or ()]
    extension = PathFinder.find_spec("cython_blas", folders)
    if extension is None or extension.origin is None:
        raise ImportError("SciPy, whose BLAS the compiled tier uses, is not there")
    library = ctypes.CDLL(extension.origin)
    for name in _SETTERS:
        if hasattr(library, name):
            getattr(library, name)(ctypes.c_int(1))
            break
    return library
