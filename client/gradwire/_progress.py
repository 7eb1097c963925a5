"""Progress of large transfers: a meter for each body of some size, told of every piece of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Protocol

__all__ = ["LARGE", "Meter", "NewMeter", "bars", "measured"]

LARGE: Final = 8 << 20
"""Bodies of so many bytes have a meter."""


class Meter(Protocol):
    """What shows how far a transfer is; tqdm's bars are such."""

    def update(self, n: float = 1, /) -> object:
        """So many bytes more went over the wire."""

    def close(self) -> object:
        """The transfer is over, whether or not all went."""


NewMeter = Callable[[str, int], Meter]
"""Makes the meter of a transfer, of `sending` or `receiving` and its bytes."""


def bars() -> NewMeter:
    """Bars in the terminal, each gone when its transfer is over.

    Raises:
        ImportError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as missing:
        hint = 'a progress bar needs tqdm: pip install "gradwire[progress]"'
        raise ImportError(hint) from missing

    def bar(what: str, size: int) -> Meter:
        made: Meter = tqdm(
            total=size, desc=what, unit="B", unit_scale=True, unit_divisor=1024, leave=False
        )
        return made

    return bar


@contextmanager
def measured(
    new: NewMeter | None, what: str, size: int
) -> Generator[Callable[[int], object], None, None]:
    """What to call with the length of each piece of a body of `size` bytes."""
    if new is None or size < LARGE:
        yield _unseen
        return
    meter = new(what, size)
    try:
        yield meter.update
    finally:
        meter.close()


def _unseen(_: int) -> None:
    """Nobody asked."""
