"""Which of many names may have been meant by one that is not there.

The answer is that of `difflib.get_close_matches`, but for case. That compares a name with all
others, which takes minutes where thousands of long ones are much alike, as the names of a deep
model are, or those of somebody who wants to keep the server busy. Here the likeliest are compared
first, and what all comparisons may cost together has a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher

__all__ = ["close_names"]

_LIKENESS = 0.6
"""Of two names: twice the characters that they share in order, by all that they have."""

_LOOKED_AT = 1000
"""How many names are looked at; of more, those that come last."""

_PAIRS = 2**16
"""Pairs of characters, one of either name, that may be compared: half a tenth of a second."""


def close_names(name: str, known: Iterable[str], count: int = 3) -> list[str] | None:
    """Up to `count` names that the caller may have meant, whatever their case, or None."""
    least, most = -(-3 * len(name) // 7), 7 * len(name) // 3  # beyond them no two are like enough
    near = [other for other in known if least <= len(other) <= most][-_LOOKED_AT:]
    if not near:
        return None
    folded = {other.lower(): other for other in near}
    word = name.lower()
    characters = Counter(word).items()
    likely = []
    for other in folded:
        shared = sum(min(times, other.count(character)) for character, times in characters)
        bound = 2 * shared / (len(word) + len(other))  # which order can only make smaller
        if bound >= _LIKENESS:
            likely.append((bound, other))
    likely.sort(reverse=True)
    matcher = SequenceMatcher(b=word)
    best: list[tuple[float, str]] = []
    left = _PAIRS
    for bound, other in likely:
        left -= len(word) * len(other)
        if left < 0 or (len(best) == count and bound < best[-1][0]):
            break
        matcher.set_seq1(other)
        ratio = matcher.ratio()
        if ratio >= _LIKENESS:
            best = sorted([*best, (ratio, other)], reverse=True)[:count]
    return [folded[other] for _, other in best] or None
