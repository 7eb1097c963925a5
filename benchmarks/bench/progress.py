"""A progress bar that is quiet where nobody watches: in a log it writes a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 30.0


def progress(items: Sequence[Any], title: str) -> tqdm[Any]:
    """The items, with a bar on stderr."""
    watched = sys.stderr.isatty()
    return tqdm(items, desc=title, mininterval=0.2 if watched else LOG_SECONDS, maxinterval=60)
