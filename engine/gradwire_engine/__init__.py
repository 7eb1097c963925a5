"""Gradwire's engine: differentiable tensor graphs, their transforms and their execution.

It knows nothing of networks. A graph is grown with a `Builder`, transformed and run by an `Engine`;
every refusal is an `errors.EngineError` with its facts in fields.
"""

from . import errors, ops
from .builder import Builder, Entry, Handle, Ref, VarList, build, make_input, run
from .engine import Engine
from .ir import Graph, Input, Node, Origin, Type
from .prepared import Prepared
from .request import Expected, RunResult, RunSpec, TransformSpec

__all__ = [
    "Builder",
    "Engine",
    "Entry",
    "Expected",
    "Graph",
    "Handle",
    "Input",
    "Node",
    "Origin",
    "Prepared",
    "Ref",
    "RunResult",
    "RunSpec",
    "TransformSpec",
    "Type",
    "VarList",
    "build",
    "errors",
    "make_input",
    "ops",
    "run",
]
