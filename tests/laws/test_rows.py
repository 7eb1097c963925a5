"""Every op of the catalogue is tested, documented, and has just the rules its kind requires."""

from __future__ import annotations

import inspect

import pytest

from gradwire_engine import ops
from gradwire_engine.ops.base import Composite, Op

from .rows import ROWS, row_ids

every_op = pytest.mark.parametrize("name", list(ops.CATALOGUE))
PREFIXES = ("jvp_", "transpose_", "vjp_")
# PyTorch has another generator: these two are held to the test vectors of the specification.
WITHOUT_ORACLE = {"rand_uniform", "bernoulli_mask"}


def _states(cls: type[Op], rule: str) -> bool:
    return getattr(cls, rule, None) is not getattr(Op, rule, None)


def _rules(cls: type[Op]) -> set[str]:
    members = {name for name, _ in inspect.getmembers(cls, callable)}
    return {name for name in members if name.startswith(PREFIXES)} - {"jvp_availability"}


@every_op
def test_has_a_row(name: str) -> None:
    assert any(case.op == name for case in ROWS)


@every_op
def test_has_an_oracle(name: str) -> None:
    held = any(case.reference is not None for case in ROWS if case.op == name)
    assert held or name in WITHOUT_ORACLE


def test_rows_name_ops_canonically_and_have_distinct_ids() -> None:
    assert {case.op for case in ROWS} <= set(ops.CATALOGUE)
    assert len(set(row_ids())) == len(ROWS)


@every_op
def test_every_attribute_is_set_in_some_row(name: str) -> None:
    used = {attribute for case in ROWS if case.op == name for attribute in case.attrs}
    assert used == set(ops.CATALOGUE[name].attributes)


@every_op
def test_is_documented(name: str) -> None:
    text = ops.CATALOGUE[name].__doc__ or ""
    # A dataclass without a docstring gets its signature for one.
    assert text.strip()
    assert not text.startswith(ops.CATALOGUE[name].__name__ + "(")
    assert text.strip().endswith(".")


@every_op
def test_has_the_rules_of_its_kind(name: str) -> None:
    cls = ops.CATALOGUE[name]
    assert _states(cls, "typing")
    if issubclass(cls, Composite):
        assert cls.kind == "composite"
        assert _states(cls, "expand")
        assert not _states(cls, "numpy")
        assert not _rules(cls)
        assert not cls.linear_in
        return
    assert cls.kind == "primitive"
    assert not _states(cls, "expand")
    assert _states(cls, "numpy")
    assert _states(cls, "vmap") or not cls.operands
    names = {operand.name for operand in cls.operands}
    assert set(cls.linear_in) <= names
    assert set(cls.nondiff) <= names
    assert not set(cls.linear_in) & set(cls.nondiff)
    nonlinear = names - set(cls.linear_in) - set(cls.nondiff)
    expected = {f"transpose_{n}" for n in cls.linear_in} | {f"jvp_{n}" for n in nonlinear}
    assert _rules(cls) == expected


@every_op
def test_aliases_find_it(name: str) -> None:
    cls = ops.CATALOGUE[name]
    assert ops.find(name) is cls
    for alias in cls.aliases:
        assert ops.find(alias) is cls
    if cls.graphm is not None and cls.graphm != name:
        assert cls.graphm in cls.aliases


def test_no_op_is_reverse_only() -> None:
    assert ops.REVERSE_ONLY == ()
