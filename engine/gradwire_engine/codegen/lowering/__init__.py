"""Ops with kernels of their own: for each, how a node becomes calls.

A lowering is a function ``(emit, node, operands, result) -> bool``. It may refuse (False, with
nothing emitted), and then the node runs by its NumPy meaning. Operands come as layouts, strided
views of buffers; what a kernel cannot read as it lies, it asks ``emit.densify`` to copy. None of
these modules imports Numba: they only name kernels, in source text.
"""
