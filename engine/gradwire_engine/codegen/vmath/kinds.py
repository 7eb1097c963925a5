"""The two float formats as data, so that an algorithm that both share is written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..prelude import bits_f32, bits_f64, f32, f64, float_f32, float_f64, i32, i64


@dataclass(frozen=True)
class Kind:
    """A binary float format.

    Attributes:
        real: Makes a float of it.
        whole: Makes an integer as wide as it.
        bits: The bits of a float, as such an integer.
        unbits: The float that such an integer is the bits of.
        places: Bits of the stored significand, a Python int.
        bias: What the exponent field of 1 holds, a Python int.
        ln2: ln 2 as a sum of two floats; products of the first with exponents are exact.
    """

    real: Any
    whole: Any
    bits: Any
    unbits: Any
    places: int
    bias: int
    ln2: tuple[Any, Any]

    @property
    def digits(self) -> Any:
        """`places` as an integer of the format: how far the exponent field is shifted."""
        return self.whole(self.places)

    @property
    def unit(self) -> Any:
        """The bits of 1."""
        return self.whole(self.bias << self.places)

    @property
    def sign(self) -> Any:
        """The bits of -0."""
        return self.whole(np.iinfo(self.whole).min)

    @property
    def magic(self) -> Any:
        """Added to a small float, rounds it to an integer, which is then in the low bits."""
        return self.real(1.5 * 2.0**self.places)

    @property
    def tiny(self) -> Any:
        """The least normal number."""
        return np.finfo(self.real).tiny

    def reals(self, *numbers: float) -> tuple[Any, ...]:
        """Numbers in this format."""
        return tuple(self.real(n) for n in numbers)


F32 = Kind(
    real=f32,
    whole=i32,
    bits=bits_f32,
    unbits=float_f32,
    places=23,
    bias=127,
    ln2=(f32(0.693359375), f32(-0.00021219444)),
)
F64 = Kind(
    real=f64,
    whole=i64,
    bits=bits_f64,
    unbits=float_f64,
    places=52,
    bias=1023,
    ln2=(f64(0.6931471805598903), f64(5.497923018708371e-14)),
)
