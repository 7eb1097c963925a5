"""Running graphs: plans, the NumPy interpreter that executes them, and compiled programs."""

from ..codegen.compiler import Tally
from ..codegen.programs import Programs, compiler_for, unavailable
from ..codegen.team import processors
from .executor import Deadline, Executable, check_deadline
from .interpreter import execute, interpret
from .plan import Plan, make_plan

__all__ = [
    "Deadline",
    "Executable",
    "Plan",
    "Programs",
    "Tally",
    "check_deadline",
    "compiler_for",
    "execute",
    "interpret",
    "make_plan",
    "processors",
    "unavailable",
]
