"""Runs of a graph as exchanges: what forward, vjp, jvp, hvp, jacobian and hessian send and give.

`RunPlan` knows a session, the outputs asked for and under which keys the caller wants them, the
mapped axes and the options. The two kinds of `Function` are shells over it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from gradwire._exchanges import Groups, Store, perform_run, transform
from gradwire._linear import End, LinearPlan
from gradwire._protocol import Exchange, segment
from gradwire._shapes import FLOATS
from gradwire._tensor import BaseTensor, slot_of
from gradwire._values import as_sent, by_name
from gradwire.wire.tensors import DTYPES

if TYPE_CHECKING:
    from gradwire._recorder import Recorder
    from gradwire._values import Sent, TensorLike
    from gradwire.wire.tensors import Array

__all__ = ["Feed", "Reduce", "RunPlan"]

Feed: TypeAlias = "Mapping[str, TensorLike]"
Reduction: TypeAlias = Literal["sum", "mean"]
Reduce: TypeAlias = "Reduction | Mapping[str, Reduction] | None"
"""How results are reduced over the mapped axis: one word, or a word by path (`gradients/w`)."""

Arrays: TypeAlias = "dict[str, Array]"

OPTIONS: Final = ("deadline_ms", "nan_policy", "tier")
"""What `Function.options` takes."""


@dataclass(frozen=True)
class RunPlan:
    """How a function runs.

    Attributes:
        recorder: The session's state.
        outputs: The values asked for by the caller's keys; None where the session has none, so
            that the server says so.
        in_axes: The mapped axis of inputs, by name.
        options: `deadline_ms`, `nan_policy` and `tier`, as far as given.
    """

    recorder: Recorder[Any]
    outputs: Mapping[str, BaseTensor | str] | None
    in_axes: Mapping[str, int] = field(default_factory=dict[str, int])
    options: Mapping[str, object] = field(default_factory=dict[str, object])

    def forward(self, inputs: Feed, reduce: Reduce, store: Store | None = None) -> Exchange[Arrays]:
        """The outputs."""
        document = self._document(reduce, [f"outputs/{key}" for key in self._keys()])
        groups = yield from self._run("forward", document, self._inputs(inputs), store)
        return self._named(groups["outputs"])

    def vjp(
        self,
        cotangent: TensorLike | Feed | None,
        wrt: Sequence[str] | None,
        inputs: Feed,
        reduce: Reduce,
        store: Store | None = None,
        *,
        reduce_outputs: bool = False,
    ) -> Exchange[tuple[Arrays, Arrays]]:
        """The outputs, and the gradients in the order of `wrt`."""
        wrt = _names(wrt)
        order = self.recorder.differentiable if wrt is None else wrt
        paths = [f"gradients/{name}" for name in order if name not in self.in_axes]
        if reduce_outputs:
            paths += [f"outputs/{key}" for key in self._keys()]
        document = self._document(reduce, paths)
        if wrt is not None:
            document["wrt"] = wrt
        given = self._cotangents(cotangent)
        if self.in_axes and given:
            document["in_axes"] = {**self._axes(), **dict.fromkeys(given, 0)}
        groups = yield from self._run("vjp", document, {**self._inputs(inputs), **given}, store)
        return self._named(groups["outputs"]), _ordered(groups.get("gradients", {}), order)

    def jvp(
        self, tangents: Feed, inputs: Feed, reduce: Reduce, store: Store | None = None
    ) -> Exchange[tuple[Arrays, Arrays]]:
        """The outputs and their tangents."""
        by_name("tangents", tangents)
        keys = self._keys()
        paths = [f"{group}/{key}" for group in ("outputs", "tangents") for key in keys]
        document = self._document(reduce, paths)
        given = self._feed("tangents", tangents)
        axes = {f"tangents/{n}": a for n, a in self.in_axes.items() if n in tangents}
        if axes:
            document["in_axes"] = {**self._axes(), **axes}
        groups = yield from self._run("jvp", document, {**self._inputs(inputs), **given}, store)
        return self._named(groups["outputs"]), self._named(groups["tangents"])

    def hvp(
        self,
        v: Feed,
        wrt: Sequence[str] | None,
        inputs: Feed,
        cotangent: TensorLike | None,
        reduce: Reduce,
        *,
        every: bool = False,
    ) -> Exchange[Arrays]:
        """The tangents of the gradients along `v`: forward over reverse, in one request.

        With `every`, `v` holds many vectors, stacked on axis 0, and so does the result.
        """
        _, output = self._sole("hvp")
        wrt = _names(wrt) or list(by_name("tangents", v))
        base, dtype, shape = self._base(output)
        role = _fresh("cotangent", base, self.recorder.by_name)
        if cotangent is None:
            if shape:
                raise ValueError("hvp of an output that is no scalar needs its cotangent")
            cotangent = np.ones((), DTYPES[dtype])
        taken = {base}
        names: dict[str, str] = {}
        for name in wrt:
            names[name] = _fresh("gradient", name, taken)
            taken.add(names[name])
        transform = {"transform": "vjp", "outputs": [_ref(output)], "wrt": wrt}
        document = self._document(None, [])
        document["outputs"] = list(names.values())
        document["transforms"] = [transform]
        if reduce is not None:
            self._check_mapped()
            words = dict.fromkeys(wrt, reduce) if isinstance(reduce, str) else reduce
            free = {n: w for n, w in words.items() if n in names and n not in self.in_axes}
            document["reduce"] = {f"tangents/{names[n]}": w for n, w in free.items()}
        mapped = dict.fromkeys(v, 0) if every else self.in_axes
        axes = {f"tangents/{n}": a for n, a in mapped.items() if n in v}
        if axes:
            document["in_axes"] = {**self._axes(), **axes}
        tensors = {**self._inputs(inputs), **self._feed("tangents", v)}
        tensors[f"inputs/{role}"] = as_sent(cotangent, dtype)
        groups = yield from self._run("jvp", document, tensors)
        return {name: groups["tangents"][derived] for name, derived in names.items()}

    def jacobian(
        self,
        wrt: Sequence[str] | None,
        inputs: Feed,
        mode: Literal["auto", "reverse", "forward"],
    ) -> Exchange[Arrays]:
        """By input name: d output / d input, of shape output.shape + input.shape."""
        key, output = self._sole("jacobian")
        if self.in_axes:
            raise ValueError("a jacobian is not mapped again: take it of the function itself")
        wrt = _names(wrt) or self.recorder.differentiable
        _, dtype, shape = self._base(output)
        shapes = {name: self.recorder.find(name).shape for name in wrt}
        rows, columns = math.prod(shape), sum(map(math.prod, shapes.values()))
        if mode == "reverse" or (mode == "auto" and rows <= columns):
            basis = _basis(shape, dtype)
            path = f"cotangents/{_key(output)}"
            document = self._document(None, [])
            document.update(wrt=wrt, in_axes={path: 0})
            tensors = {**self._inputs(inputs), path: basis}
            groups = yield from self._run("vjp", document, tensors)
            stacks = groups["gradients"]
            return {name: stacks[name].reshape(shape + shapes[name]) for name in wrt}
        blocks: Arrays = {}
        for name in wrt:
            path = f"tangents/{name}"
            document = self._document(None, [])
            document["in_axes"] = {path: 0}
            basis = _basis(shapes[name], self.recorder.find(name).dtype)
            groups = yield from self._run("jvp", document, {**self._inputs(inputs), path: basis})
            columns_last = np.moveaxis(self._named(groups["tangents"])[key], 0, -1)
            blocks[name] = columns_last.reshape(shape + shapes[name])
        return blocks

    def hessian(
        self, wrt: Sequence[str] | None, inputs: Feed
    ) -> Exchange[dict[str, dict[str, Array]]]:
        """By two input names: the second derivatives of a scalar output, a mapped hvp for each."""
        _, output = self._sole("hessian")
        if self.in_axes:
            raise ValueError("a hessian is not mapped again: take it of the function itself")
        wrt = _names(wrt) or self.recorder.differentiable
        if shape := self._base(output)[2]:
            raise ValueError(f"a hessian needs a scalar output, this has shape {shape}")
        blocks: dict[str, dict[str, Array]] = {name: {} for name in wrt}
        for column in wrt:
            handle = self.recorder.find(column)
            basis = {column: _basis(handle.shape, handle.dtype)}
            products = yield from self.hvp(basis, wrt, inputs, None, None, every=True)
            for row in wrt:
                last = np.moveaxis(products[row], 0, -1)
                blocks[row][column] = last.reshape(last.shape[:-1] + handle.shape)
        return blocks

    def linearize(self, inputs: Feed, wrt: Sequence[str] | None) -> Exchange[LinearPlan]:
        """The linear map at a point, in a session of its own."""
        if self.in_axes:
            raise ValueError("a mapped function is not linearized: linearize the function itself")
        recorder = self.recorder
        self._check_inputs(inputs)
        wrt = _names(wrt)
        order = recorder.differentiable if wrt is None else wrt
        document: dict[str, object] = {"transform": "linearize", "inputs": {}}
        keys: dict[str, BaseTensor | str] = {}
        if self.outputs is not None:
            keys = {_key(output): output for output in self.outputs.values()}
            document["outputs"] = [_ref(output) for output in keys.values()]
        if wrt is not None:
            document["wrt"] = wrt
        session = yield from transform(
            recorder.id, document, recorder.feed(inputs), None, binary=recorder.binary
        )
        starts = zip(order, session["inputs"], strict=True)
        # Only floats have tangents, and the answer tells them in the order that was asked for.
        floats = [key for key, output in keys.items() if self._dtype(output) in (*FLOATS, None)]
        names = dict(zip(floats, session["outputs"], strict=True))
        return LinearPlan(
            session["id"],
            {name: End(s["name"], tuple(s["shape"]), s["dtype"]) for name, s in starts},
            {
                key: self._end(names[_key(output)], output)
                for key, output in (self.outputs or {}).items()
                if _key(output) in names
            },
            self.options,
            recorder.binary,
        )

    # -- parts -------------------------------------------------------------------------------------

    def _run(
        self,
        route: str,
        document: Mapping[str, object],
        tensors: Mapping[str, Sent],
        store: Store | None = None,
    ) -> Exchange[Groups]:
        path = f"/v1/sessions/{segment(self.recorder.id)}/{route}"
        named = by_name("results to store", store or {}, "'w'")
        return perform_run(
            path,
            document,
            tensors,
            binary=self.recorder.binary,
            refer=self.recorder.refer,
            store={self._translated(path): to for path, to in named.items()},
        )

    def _document(self, reduce: Reduce, paths: Sequence[str]) -> dict[str, object]:
        document = dict(self.options)
        if self.outputs is not None:
            document["outputs"] = list({_key(o): _ref(o) for o in self.outputs.values()}.values())
        if self.in_axes:
            document["in_axes"] = self._axes()
        if reduce is not None:
            self._check_mapped()
            words = dict.fromkeys(paths, reduce) if isinstance(reduce, str) else reduce
            document["reduce"] = {self._translated(path): w for path, w in words.items()}
        return document

    def _check_mapped(self) -> None:
        if not self.in_axes:
            raise ValueError("reduce is over the mapped axis: map the function first, f.vmap(x=0)")

    def _axes(self) -> dict[str, int]:
        return {f"inputs/{name}": axis for name, axis in self.in_axes.items()}

    def _keys(self) -> list[str]:
        return list(self.outputs or ())

    def _translated(self, path: str) -> str:
        """A result's path with the caller's key replaced by the one that travels.

        Raises:
            ValueError: The function has no such output: the server would name those that travel.
        """
        group, _, key = path.partition("/")
        if group == "gradients" or self.outputs is None:
            return path
        if group not in ("outputs", "tangents") or key not in self.outputs:
            known = ", ".join(f"outputs/{output}" for output in self.outputs)
            raise ValueError(f"{path!r} is no result of this function, which has {known}")
        return f"{group}/{_key(self.outputs[key])}"

    def _named(self, results: Arrays) -> Arrays:
        """Results under the caller's keys, in the caller's order; only floats have tangents."""
        if self.outputs is None:
            return results
        wire = {key: _key(output) for key, output in self.outputs.items()}
        return {key: results[name] for key, name in wire.items() if name in results}

    def _inputs(self, values: Feed) -> dict[str, Sent]:
        self._check_inputs(values)
        return self._feed("inputs", values)

    def _check_inputs(self, values: Feed) -> None:
        """Refuse an option among the keywords: a run has inputs there.

        Raises:
            TypeError: There is one.
        """
        for name in OPTIONS:
            if name in values and name not in self.recorder.inputs:
                given = values[name]
                raise TypeError(
                    f"{name} is an option of the function and none of its inputs: "
                    f"f.options({name}={given!r})(...)"
                )

    def _feed(self, group: str, values: Feed) -> dict[str, Sent]:
        """Values as arrays by path, of the dtypes that their inputs have."""
        return {f"{group}/{name}": a for name, a in self.recorder.feed(values, group).items()}

    def _cotangents(self, cotangent: TensorLike | Feed | None) -> dict[str, Sent]:
        if cotangent is None:
            return {}
        if not isinstance(cotangent, Mapping):
            key, _ = self._sole("a cotangent without a name")
            cotangent = {key: cotangent}
        arrays: dict[str, Sent] = {}
        for key, value in cotangent.items():
            output = (self.outputs or {}).get(key, key)
            array = as_sent(value, self._dtype(output), f"cotangent[{key!r}]")
            arrays[f"cotangents/{_key(output)}"] = array
        return arrays

    def _sole(self, what: str) -> tuple[str, BaseTensor | str]:
        """The only output."""
        outputs = self.outputs or {}
        if len(outputs) != 1:
            raise ValueError(f"{what} needs a function of one output, this has {len(outputs)}")
        return next(iter(outputs.items()))

    def _handle(self, output: BaseTensor | str) -> BaseTensor | None:
        if isinstance(output, BaseTensor):
            return output
        declared = self.recorder.outputs.get(output)
        if declared is not None:
            return self.recorder.by_id.get(declared)
        return self.recorder.by_name.get(output)

    def _end(self, name: str, output: BaseTensor | str) -> End:
        handle = self._handle(output)
        return End(name) if handle is None else End(name, handle.shape, handle.dtype)

    def _dtype(self, output: BaseTensor | str) -> str | None:
        handle = self._handle(output)
        return None if handle is None else handle.dtype

    def _base(self, output: BaseTensor | str) -> tuple[str, str, tuple[int, ...]]:
        """What the output is called in a derived graph, and its type."""
        handle = self._handle(output)
        if handle is None:
            raise KeyError(f"no value {output!r} is known in this session; see refresh()")
        name = output if isinstance(output, str) else handle.name or f"v{handle.id}"
        return name, handle.dtype, handle.shape


def _names(wrt: Sequence[str] | None) -> list[str] | None:
    """Input names; a single one may come bare.

    Raises:
        TypeError: They are something else, such as arrays or handles.
    """
    if wrt is None or isinstance(wrt, str):
        return None if wrt is None else [wrt]
    names = None if isinstance(wrt, Mapping) else list(wrt)
    if names is None or not all(isinstance(name, str) for name in names):  # pyright: ignore[reportUnnecessaryIsInstance] # for callers that nobody type-checks
        raise TypeError(
            "wrt is a list of input names, as in wrt=['w', 'b']; "
            "arrays are given by keyword or as inputs={...}"
        )
    return names


def _ref(output: BaseTensor | str) -> object:
    return slot_of(output).document() if isinstance(output, BaseTensor) else output


def _key(output: BaseTensor | str) -> str:
    """The key of an output in an answer: the ref as it was written, an id as text."""
    return str(output.id) if isinstance(output, BaseTensor) else output


def _fresh(role: str, name: str, taken: Container[str]) -> str:
    """The name that a transform gives: `cotangent.y`, or `cotangent2.y` where that is taken."""
    candidate, number = f"{role}.{name}", 1
    while candidate in taken:
        number += 1
        candidate = f"{role}{number}.{name}"
    return candidate


def _basis(shape: tuple[int, ...], dtype: str) -> Array:
    size = math.prod(shape)
    return np.eye(size, dtype=DTYPES[dtype]).reshape(size, *shape)


def _ordered(results: Arrays, order: Sequence[str]) -> Arrays:
    first = {name: results[name] for name in order if name in results}
    return {**first, **results}
