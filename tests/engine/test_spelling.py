"""Names that may have been meant: as difflib has them, and never for long."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwire_engine import ops, spelling
from gradwire_engine.spelling import close_names

_NAMES = st.text("abcd_./", min_size=1, max_size=12)


@given(_NAMES, st.lists(_NAMES, max_size=40, unique=True))
def test_the_answer_is_that_of_difflib(name: str, known: list[str]) -> None:
    assert (close_names(name, known) or []) == difflib.get_close_matches(name, known)


@given(st.sampled_from(sorted(ops.CATALOGUE)), st.data())
def test_misspelt_ops_are_found_as_by_difflib(op: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(op)))
    wrong = op[:at] + data.draw(st.text("aeisz_", max_size=2)) + op[at + 1 :]
    known = list(ops.CATALOGUE)
    assert (close_names(wrong, known) or []) == difflib.get_close_matches(wrong, known)


def test_case_is_of_no_account() -> None:
    assert close_names("Softmax", ["softmax", "Tanh"]) == ["softmax"]
    assert close_names("tanh", ["softmax", "Tanh"]) == ["Tanh"]
    assert close_names("", ["x"]) is None
    assert close_names("x", []) is None


@pytest.mark.parametrize("length", [1, 20, 200, 250, 1000, 10**6])
def test_many_long_names_that_are_alike_cost_no_more_than_a_few(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = min(length, 1000)
    known = [f"{'a' * size}{k}"[-size:] for k in range(5000)]
    compared = []

    class Counted(difflib.SequenceMatcher[str]):
        def ratio(self) -> float:
            compared.append(length * size)
            return super().ratio()

    monkeypatch.setattr(spelling, "SequenceMatcher", Counted)
    close_names("a" * length, known)
    assert sum(compared) <= 2**16
