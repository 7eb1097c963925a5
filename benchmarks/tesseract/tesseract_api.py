"""The graph `scale` as a Tesseract."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel
from tesseract_core.runtime import Array, Float32


class InputSchema(BaseModel):
    """What `apply` takes."""

    x: Array[(None,), Float32]


class OutputSchema(BaseModel):
    """What `apply` gives."""

    y: Array[(None,), Float32]


def apply(inputs: InputSchema) -> OutputSchema:
    """Three times the input."""
    return OutputSchema(y=inputs.x * np.float32(3))
