"""Products of tensors: `dot_general`, and the matrix products and `einsum` that lower to it.

`dot_general` is closed under transposition and batching, so it is the only primitive here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..ir import Type, Value
from . import checks
from .attributes import AxisPairs, Text
from .base import Array, Composite, Op
from .linalg_numpy import Roles, copied, product
from .reduce import ReduceSum
from .shape import Reshape, Slice, Transpose, move_axis


class DotGeneral(Op, inputs=("a", "b"), linear_in=("a", "b")):
    """Sum of products of ``a`` and ``b`` over paired axes.

    ``contract`` is [[axes of a], [axes of b]]: entry i of one is summed against entry i of the
    other. ``batch`` pairs axes that run along together. The result has the batch axes in the order
    given, then the rest of ``a``, then the rest of ``b``. An empty contraction gives 0.
    """

    contract: AxisPairs = ((), ())
    batch: AxisPairs = ((), ())

    def roles(self, rank_a: int, rank_b: int) -> Roles:
        """The role of each axis of operands of these ranks."""
        contract = self._side("contract", 0, rank_a), self._side("contract", 1, rank_b)
        batch = self._side("batch", 0, rank_a), self._side("batch", 1, rank_b)
        for side in (0, 1):
            if set(contract[side]) & set(batch[side]):
                raise self.invalid("batch", f"an axis of {'ab'[side]} is contracted too")
        used_a, used_b = {*contract[0], *batch[0]}, {*contract[1], *batch[1]}
        return Roles(
            contract_a=contract[0],
            contract_b=contract[1],
            batch_a=batch[0],
            batch_b=batch[1],
            free_a=tuple(i for i in range(rank_a) if i not in used_a),
            free_b=tuple(i for i in range(rank_b) if i not in used_b),
        )

    def _side(self, attribute: str, side: int, rank: int) -> tuple[int, ...]:
        named = getattr(self, attribute)[side]
        found = tuple(checks.axis(self, attribute, axis, rank) for axis in named)
        if len(set(found)) != len(found):
            raise self.invalid(attribute, f"an axis of {'ab'[side]} is named twice")
        return found

    def typing(self, a: Type, b: Type) -> Type:
        r = self.roles(a.rank, b.rank)
        checks.floats(self, a=a, b=b)
        pairs = {
            j: a.shape[i]
            for i, j in zip(r.contract_a + r.batch_a, r.contract_b + r.batch_b, strict=True)
        }
        if any(b.shape[j] != size for j, size in pairs.items()):
            raise self.mismatch("b", [pairs.get(j, f"p{j}") for j in range(b.rank)], b)
        return a.with_shape(
            (
                *(a.shape[i] for i in r.batch_a),
                *(a.shape[i] for i in r.free_a),
                *(b.shape[j] for j in r.free_b),
            )
        )

    def numpy(self, a: Array, b: Array) -> Array:
        return product(a, b, self.roles(a.ndim, b.ndim))

    def workspace(self, a: Type, b: Type) -> int:
        itemsize = a.nbytes // a.size if a.size else 0
        return copied(a.shape, b.shape, self.roles(a.rank, b.rank)) * itemsize

    def transpose_a(self, ct: Value, a: Type, b: Value) -> Value:
        r = self.roles(a.rank, b.rank)
        batches, rest = len(r.batch_a), len(r.free_a)
        free_of_ct = tuple(range(batches + rest, ct.rank))
        part = DotGeneral((free_of_ct, r.free_b), (tuple(range(batches)), r.batch_b))(ct, b)
        # What is left of b are its contracted axes, in its own order.
        tail = (i for _, i in sorted(zip(r.contract_b, r.contract_a, strict=True)))
        return _restored(part, (*r.batch_a, *r.free_a, *tail))

    def transpose_b(self, ct: Value, a: Value, b: Type) -> Value:
        r = self.roles(a.rank, b.rank)
        batches, rest = len(r.batch_a), len(r.free_a)
        free_of_ct = tuple(range(batches, batches + rest))
        part = DotGeneral((r.free_a, free_of_ct), (r.batch_a, tuple(range(batches))))(a, ct)
        tail = (j for _, j in sorted(zip(r.contract_a, r.contract_b, strict=True)))
        return _restored(part, (*r.batch_b, *tail, *r.free_b))

    def vmap(self, size: int, mapped: tuple[bool, ...], a: Value, b: Value) -> Value:
        shift_a, shift_b = mapped
        r = self.roles(a.rank - shift_a, b.rank - shift_b)
        contract = _shifted(r.contract_a, shift_a), _shifted(r.contract_b, shift_b)
        batch = _shifted(r.batch_a, shift_a), _shifted(r.batch_b, shift_b)
        if shift_a and shift_b:
            return DotGeneral(contract, ((0, *batch[0]), (0, *batch[1])))(a, b)
        y = DotGeneral(contract, batch)(a, b)
        # The mapped axis is the first free one of its operand.
        return move_axis(y, len(r.batch_a) + (0 if shift_a else len(r.free_a)), 0)


def _shifted(axes: Sequence[int], by: int) -> tuple[int, ...]:
    return tuple(i + by for i in axes)


def _restored(part: Value, places: Sequence[int]) -> Value:
    """Axis i of `part` becomes axis ``places[i]``."""
    order = tuple(places.index(i) for i in range(len(places)))
    return part if order == tuple(range(len(order))) else Transpose(order)(part)


# -- matrix products -------------------------------------------------------------------------------


class Matmul(Composite, inputs=("a", "b"), graphm="matmul"):
    """The matrix product of a: [m,n] and b: [n,p]."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.floats(self, a=a, b=b)
        checks.rank(self, "a", a, 2, ["m", "n"])
        if b.rank != 2 or b.shape[0] != a.shape[1]:
            raise self.mismatch("b", [a.shape[1], "p"], b)
        return a.with_shape((a.shape[0], b.shape[1]))

    def expand(self, a: Value, b: Value) -> Value:
        return DotGeneral(((1,), (0,)))(a, b)


class Bmm(Composite, inputs=("a", "b"), graphm="bmm"):
    """One matrix product per batch index: a: [B,m,n] and b: [B,n,p]; B does not broadcast."""

    def typing(self, a: Type, b: Type) -> Type:
        checks.floats(self, a=a, b=b)
        checks.rank(self, "a", a, 3, ["B", "m", "n"])
        count, rows, depth = a.shape
        if b.rank != 3 or b.shape[:2] != (count, depth):
            raise self.mismatch("b", [count, depth, "p"], b)
        return a.with_shape((count, rows, b.shape[2]))

    def expand(self, a: Value, b: Value) -> Value:
        return DotGeneral(((2,), (1,)), ((0,), (0,)))(a, b)


class Linear(Composite, inputs=("w", "b", "x"), graphm="linear"):
    """W x + b for w: [out,in], b: [out] and one sample x: [in]."""

    def typing(self, w: Type, b: Type, x: Type) -> Type:
        checks.floats(self, w=w, b=b, x=x)
        checks.rank(self, "w", w, 2, ["out", "in"])
        if b.shape != w.shape[:1]:
            raise self.mismatch("b", w.shape[:1], b)
        if x.shape != w.shape[1:]:
            raise self.mismatch("x", w.shape[1:], x)
        return b

    def expand(self, w: Value, b: Value, x: Value) -> Value:
        return DotGeneral(((1,), (0,)))(w, x) + b


# -- einsum ----------------------------------------------------------------------------------------

ELLIPSIS = "..."
Labels = tuple[str, ...]


class Einsum(Composite, inputs=("*operands",)):
    """Sums of products in Einstein's notation: ``"ij,jk->ik"`` is a matrix product.

    A letter that several operands share runs along together; one that the output lacks is summed;
    one repeated within an operand takes its diagonal. Without ``->`` the output has the letters
    that occur once, in alphabetical order, after the ellipsis. ``...`` stands for axes of equal
    shape in every operand that has it (sizes do not broadcast). Products go from left to right.
    """

    spec: Text

    def check(self) -> None:
        self.terms()

    def terms(self) -> tuple[tuple[Labels, ...], Labels]:
        """The labels of each operand and of the output, with ``...`` as one label."""
        text = re.sub(r"\s", "", self.spec)
        if not re.fullmatch(r"[A-Za-z,.>-]*", text):
            raise self.invalid("spec", "only letters, commas, '...' and '->' may occur")
        sides = text.split("->")
        if len(sides) > 2 or re.search(r"[->]", "".join(sides)):
            raise self.invalid("spec", "there may be one '->', between operands and output")
        operands = tuple(self._labels(term) for term in sides[0].split(","))
        known = {label for term in operands for label in term}
        if len(sides) == 1:
            flat = [label for term in operands for label in term if label != ELLIPSIS]
            once = sorted(label for label in set(flat) if flat.count(label) == 1)
            return operands, (*((ELLIPSIS,) if ELLIPSIS in known else ()), *once)
        if "," in sides[1]:
            raise self.invalid("spec", "there is one output, so no comma after '->'")
        output = self._labels(sides[1])
        for label in output:
            if label not in known:
                raise self.invalid("spec", f"no operand has {label!r}, but the output does")
            if output.count(label) > 1:
                raise self.invalid("spec", f"the output names {label!r} twice")
        return operands, output

    def _labels(self, term: str) -> Labels:
        labels = tuple(re.findall(r"\.\.\.|[A-Za-z]", term))
        if len("".join(labels)) != len(term):
            raise self.invalid("spec", "dots come in threes: '...'")
        if labels.count(ELLIPSIS) > 1:
            raise self.invalid("spec", "'...' may occur once in a term")
        return labels

    def layout(self, operands: Sequence[Type]) -> tuple[list[Labels], Labels, dict[str, int]]:
        """Labels per axis of each operand and of the output, ellipses spelled out; their sizes."""
        terms, output = self.terms()
        if len(terms) != len(operands):
            count = "is 1 operand" if len(operands) == 1 else f"are {len(operands)} operands"
            reason = f"it has {len(terms)} terms, but there {count}"
            raise self.invalid("spec", reason)
        checks.floats(self, **checks.numbered("operands", operands))
        sizes: dict[str, int] = {}
        spelled: Labels | None = None
        found: list[Labels] = []
        for i, (term, t) in enumerate(zip(terms, operands, strict=True)):
            more = t.rank - len(term) + 1
            if ELLIPSIS in term and spelled is None and more >= 0:
                spelled = tuple(f"...{k}" for k in range(more))
            labels = _spell(term, (ELLIPSIS,) if spelled is None else spelled)
            if len(labels) != t.rank or ELLIPSIS in labels:
                raise self.mismatch(f"operands[{i}]", [sizes.get(x, x) for x in labels], t)
            for label, size in zip(labels, t.shape, strict=True):
                if sizes.setdefault(label, size) != size:
                    expected = [sizes.get(x, x) for x in labels]
                    raise self.mismatch(f"operands[{i}]", expected, t, "no op broadcasts")
            found.append(labels)
        return found, _spell(output, spelled or ()), sizes

    def typing(self, *operands: Type) -> Type:
        _, output, sizes = self.layout(operands)
        return operands[0].with_shape(sizes[label] for label in output)

    def expand(self, *operands: Value) -> Value:
        terms, output, _ = self.layout([v.type for v in operands])
        later = [{*output}.union(*terms[i + 1 :]) for i in range(len(terms))]
        total, labels = _simplified(operands[0], terms[0], later[0])
        for i in range(1, len(terms)):
            kept = {*labels} | later[i]
            factor, others = _simplified(operands[i], terms[i], kept)
            total, labels = _multiplied(total, labels, factor, others, output, later[i])
        order = tuple(labels.index(label) for label in output)
        return total if order == tuple(range(total.rank)) else Transpose(order)(total)


def _spell(term: Labels, spelled: Labels) -> Labels:
    """`term` with its ellipsis replaced."""
    return tuple(x for label in term for x in (spelled if label == ELLIPSIS else (label,)))


def _simplified(x: Value, labels: Labels, kept: set[str]) -> tuple[Value, Labels]:
    """Take diagonals of repeated labels, then sum out those that nothing else needs."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            rest = tuple(k for k in range(x.rank) if k not in (i, j))
            sizes = tuple(x.shape[k] for k in rest)
            n = x.shape[i]
            flat = Reshape((*sizes, n * n))(Transpose((*rest, i, j))(x))
            # In a flattened square, neighbours on the diagonal are n + 1 apart.
            x = Slice((0,) * flat.rank, flat.shape, (*(1 for _ in rest), n + 1))(flat)
            labels = (*(labels[k] for k in rest), label)
    summed = tuple(k for k, label in enumerate(labels) if label not in kept)
    if summed:
        x = ReduceSum(summed)(x)
    return x, tuple(label for label in labels if label in kept)


def _multiplied(
    a: Value, labels_a: Labels, b: Value, labels_b: Labels, output: Labels, later: set[str]
) -> tuple[Value, Labels]:
    """One product: shared labels run along where something later needs them, else are summed."""
    shared = [x for x in labels_a if x in labels_b]
    batch = [x for x in shared if x in later]
    batch.sort(key=lambda x: output.index(x) if x in output else len(output))
    contract = [x for x in shared if x not in later]

    def pairs(chosen: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(map(labels_a.index, chosen)), tuple(map(labels_b.index, chosen))

    rest = (x for x in (*labels_a, *labels_b) if x not in shared)
    return DotGeneral(pairs(contract), pairs(batch))(a, b), (*batch, *rest)
