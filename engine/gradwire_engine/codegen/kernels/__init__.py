"""Kernels written by hand, for what generated loops do not do well; `lowering` says when."""
