"""Running graphs: plans, and the NumPy interpreter that executes them."""

from .interpreter import execute, interpret
from .plan import Plan, make_plan

__all__ = ["Plan", "execute", "interpret", "make_plan"]
