"""Law rows of the products: `dot_general`, the matrix products and `einsum`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .case import Case, Draw

Shape = tuple[int, ...]
Pairs = tuple[Sequence[int], Sequence[int]]


def _case(op: str, shapes: Sequence[Shape], label: str, reference: object) -> Case:
    return Case(op, tuple(map(Draw, shapes)), {}, reference, label)  # type: ignore[arg-type]


def _einsum(spec: str, *shapes: Shape, label: str = "") -> Case:
    return Case(
        "einsum",
        tuple(map(Draw, shapes)),
        {"spec": spec},
        lambda *xs: torch.einsum(spec, *xs),
        label or spec,
    )


def _dot(a: Shape, b: Shape, contract: Pairs, batch: Pairs, spec: str, label: str) -> Case:
    """`spec` is the same product in einsum's words."""
    attrs = {"contract": [list(s) for s in contract], "batch": [list(s) for s in batch]}
    return Case(
        "dot_general", (Draw(a), Draw(b)), attrs, lambda x, y: torch.einsum(spec, x, y), label
    )


NONE: Pairs = ((), ())

CASES: tuple[Case, ...] = (
    Case("dot_general", (Draw((2,)), Draw((3,))), {}, torch.outer, "outer"),
    _case("dot_general", [(), ()], "scalars", torch.mul),
    _case("dot_general", [(), (2, 3)], "scalar-by-matrix", torch.mul),
    _dot((2, 3), (3, 4), ((1,), (0,)), NONE, "ij,jk->ik", "matmul"),
    _dot((2, 3), (4, 3), ((-1,), (-1,)), NONE, "ij,kj->ik", "negative-axes"),
    _dot((3,), (3,), ((0,), (0,)), NONE, "i,i->", "inner"),
    _dot((2, 3, 2), (2, 3, 4), ((2,), (0,)), ((1,), (1,)), "ijk,kjl->jil", "batch-inside"),
    _dot((3, 2, 2), (2, 3), NONE, ((1, 0), (0, 1)), "ijk,ji->jik", "batch-crossed"),
    _dot((2, 3, 4), (4, 2, 2, 3), ((0, 2), (2, 0)), NONE, "abc,cdae->bde", "contract-crossed"),
    _dot((2, 3, 4), (4, 3, 2), ((0, 1, 2), (2, 1, 0)), NONE, "abc,cba->", "contract-all"),
    _dot((2, 2, 3), (2, 3, 2), ((2,), (1,)), ((0, 1), (0, 2)), "abc,acb->ab", "batch-only-left"),
    _dot((2, 0), (0, 3), ((1,), (0,)), NONE, "ij,jk->ik", "contract-empty"),
    _dot((0, 2), (2, 3), ((1,), (0,)), NONE, "ij,jk->ik", "no-rows"),
    _dot((0, 2, 3), (0, 3), ((2,), (1,)), ((0,), (0,)), "bij,bj->bi", "no-batch"),
    _dot((1, 3), (1, 1), ((0,), (1,)), NONE, "ij,ki->jk", "size-one"),
    _case("matmul", [(2, 3), (3, 4)], "", torch.matmul),
    _case("matmul", [(1, 3), (3, 1)], "vectors", torch.matmul),
    _case("matmul", [(2, 0), (0, 3)], "empty", torch.matmul),
    _case("bmm", [(2, 2, 3), (2, 3, 2)], "", torch.bmm),
    _case("bmm", [(0, 2, 3), (0, 3, 2)], "empty", torch.bmm),
    _case("linear", [(2, 3), (2,), (3,)], "", lambda w, b, x: w @ x + b),
    _case("linear", [(2, 0), (2,), (0,)], "no-input", lambda w, b, x: w @ x + b),
    _case("linear", [(0, 3), (0,), (3,)], "no-output", lambda w, b, x: w @ x + b),
    _einsum("ij,jk->ik", (2, 3), (3, 4)),
    _einsum("ij,jk", (2, 3), (3, 2), label="implicit"),
    _einsum("ba", (2, 3), label="implicit-transpose"),
    _einsum("i,j,k->kij", (2,), (3,), (2,), label="outer-of-three"),
    _einsum("ij,jk,kl,l->i", (2, 3), (3, 2), (2, 3), (3,), label="chain"),
    _einsum("bij,bkj->bik", (2, 3, 2), (2, 2, 2), label="batch"),
    _einsum("ii", (3, 3), label="trace"),
    _einsum("ii->i", (3, 3), label="diagonal"),
    _einsum("iji->ij", (2, 3, 2), label="diagonal-apart"),
    _einsum("iii->i", (2, 2, 2), label="diagonal-of-three"),
    _einsum("iij,jk->ik", (2, 2, 3), (3, 2), label="diagonal-then-product"),
    _einsum("ij->", (2, 3), label="sum"),
    _einsum("ij,kl->jl", (2, 3), (2, 2), label="summed-alone"),
    _einsum("i,i,i->", (3,), (3,), (3,), label="three-way"),
    _einsum("...ij,...jk->...ik", (2, 2, 3), (2, 3, 2), label="ellipsis"),
    _einsum("i...,i->...", (3, 2, 2), (3,), label="ellipsis-in-one"),
    _einsum("...i->i...", (2, 2, 3), label="ellipsis-moved"),
    _einsum("...i,...i->i", (2, 3), (2, 3), label="ellipsis-summed"),
    _einsum("i ...-> ...", (3, 2), label="spaces"),
    _einsum(",ij->ji", (), (2, 3), label="scalar-factor"),
    _einsum("ij,jk->ik", (2, 0), (0, 3), label="empty"),
    _einsum("ii->i", (0, 0), label="empty-diagonal"),
)
