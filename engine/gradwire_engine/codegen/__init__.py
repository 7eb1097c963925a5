"""From graphs to machine code: fusion, kernels, the compiler subprocess, and compiled programs.

    schedule    an optimized graph becomes calls of kernels (fuse, loops, lowering/) on buffers
    memory      every buffer gets its place
    compiler    kernels come from the disk cache, or from a subprocess that runs Numba
    bind        calls, places and loaded kernels become tables, which one native function runs

`programs` puts the four together, in the background. Only the subprocess imports Numba.
"""
