"""Kernels written by hand, for what generated loops do not do well; see `lowering` for their use."""
