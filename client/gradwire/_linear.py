"""The derivative of a function at a point, kept on the server: push tangents forward, pull back.

`f.linearize(...)` runs the function once. What its derivative needs of that run stays with the
server, as the constants of a session of its own, so that every push and every pull after it is a
run of the linear part alone. The server ends it when nobody has used it for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

import numpy as np

from gradwire import _exchanges as exchanges
from gradwire import errors
from gradwire._protocol import Exchange, segment
from gradwire._values import Reference, as_sent, by_name
from gradwire.wire.tensors import DTYPES

if TYPE_CHECKING:
    from types import TracebackType

    from gradwire._function import AsyncPerformer, Performer
    from gradwire._values import Sent, TensorLike
    from gradwire.wire.tensors import Array

__all__ = ["AsyncLinearization", "End", "LinearPlan", "Linearization"]

OutT = TypeVar("OutT")


@dataclass(frozen=True)
class End:
    """An input or output of the function: its counterpart in the linear map, and its type.

    Attributes:
        name: What its tangent is called in the session that holds the linear map.
        shape: Its shape; None where it is not known here.
        dtype: Its dtype, alike.
    """

    name: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class LinearPlan:
    """How a linear map is run.

    Attributes:
        session: The id of the session that holds it.
        inputs: The inputs that have tangents, by name.
        outputs: The outputs that have, by the caller's keys.
        options: As in `RunPlan`.
        binary: Whether tensors travel as safetensors.
    """

    session: str
    inputs: Mapping[str, End]
    outputs: Mapping[str, End]
    options: Mapping[str, object]
    binary: bool

    def pushforward(self, tangents: Mapping[str, TensorLike]) -> Exchange[dict[str, Array]]:
        """The outputs' tangents; those of inputs that are left out are zero."""
        sent, mapped = _many(tangents, self.inputs, "tangent", "input")
        for name, end in self.inputs.items():
            if name not in sent:
                sent[name] = np.zeros(end.shape or (), DTYPES[end.dtype or "float32"])
        names = {key: end.name for key, end in self.outputs.items()}
        results = yield from self._run(
            {self.inputs[n].name: tensor for n, tensor in sent.items()},
            [self.inputs[n].name for n in mapped],
            list(dict.fromkeys(names.values())),
        )
        return {key: results[name] for key, name in names.items()}

    def pullback(self, cotangents: Mapping[str, TensorLike]) -> Exchange[dict[str, Array]]:
        """The inputs' gradients; cotangents of outputs that are left out are zero."""
        sent, mapped = _many(cotangents, self.outputs, "cotangent", "output")
        by_output = {self.outputs[key].name: tensor for key, tensor in sent.items()}
        names = {name: f"gradient.{end.name}" for name, end in self.inputs.items()}
        transform: dict[str, object] = {
            "transform": "vjp",
            "outputs": list(by_output),
            "wrt": [end.name for end in self.inputs.values()],
        }
        results = yield from self._run(
            {f"cotangent.{name}": tensor for name, tensor in by_output.items()},
            [f"cotangent.{self.outputs[key].name}" for key in mapped],
            list(names.values()),
            [transform],
        )
        return {name: results[derived] for name, derived in names.items()}

    def close(self) -> Exchange[None]:
        """The end of the session, if it has not ended by itself."""
        with suppress(errors.SessionNotFound):
            yield from exchanges.delete(self.session)

    def cotangents(
        self, cotangent: TensorLike | Mapping[str, TensorLike] | None, named: dict[str, TensorLike]
    ) -> dict[str, TensorLike]:
        """Cotangents by output; one alone is that of the only output."""
        if cotangent is None:
            return named
        if isinstance(cotangent, Mapping):
            return {**cotangent, **named}
        if len(self.outputs) != 1:
            keys = ", ".join(self.outputs)
            raise ValueError(f"of several outputs ({keys}) cotangents are given by name")
        return {next(iter(self.outputs)): cotangent, **named}

    def _run(
        self,
        inputs: Mapping[str, Sent],
        mapped: list[str],
        outputs: list[str],
        transforms: list[dict[str, object]] | None = None,
    ) -> Exchange[dict[str, Array]]:
        document: dict[str, object] = {**self.options, "outputs": outputs}
        if transforms is not None:
            document["transforms"] = transforms
        if mapped:
            document["in_axes"] = {f"inputs/{name}": 0 for name in mapped}
        try:
            groups = yield from exchanges.perform_run(
                f"/v1/sessions/{segment(self.session)}/forward",
                document,
                {f"inputs/{name}": tensor for name, tensor in inputs.items()},
                binary=self.binary,
                refer=Reference,
            )
        except errors.SessionNotFound as error:
            ended = error.expired_at
            how = "was closed or deleted" if ended is None else f"ended at {ended}, unused"
            raise errors.SessionNotFound(
                f"this linearization {how}; linearize makes another.",
                status=error.status,
                facts=error.facts,
                request_id=error.request_id,
            ) from None
        return groups["outputs"]


def _many(
    values: Mapping[str, TensorLike], ends: Mapping[str, End], what: str, of: str
) -> tuple[dict[str, Sent], list[str]]:
    """The tensors, and the names of those that are many: they have an axis more.

    Raises:
        ValueError: There are none.
        KeyError: One is of nothing that has tangents here.
    """
    sent: dict[str, Sent] = {}
    mapped: list[str] = []
    for name, value in by_name(f"{what}s", values).items():
        if name not in ends:
            known = ", ".join(map(repr, ends))
            raise KeyError(f"no {of} {name!r} has a {what} here; those that have are {known}")
        end = ends[name]
        sent[name] = tensor = as_sent(value, end.dtype, f"{what}[{name!r}]")
        if (
            not isinstance(tensor, Reference)
            and end.shape is not None
            and tensor.ndim == len(end.shape) + 1
        ):
            mapped.append(name)
    if not sent:
        raise ValueError(f"at least one {what} is needed, by {of}: {', '.join(ends)}")
    return sent, mapped


class _Base(Generic[OutT]):
    """What both kinds share."""

    def __init__(self, plan: LinearPlan, *, single: bool) -> None:
        self._plan = plan
        self._single = single

    @property
    def session(self) -> str:
        """The id of the session that holds the linear map, for `client.open`."""
        return self._plan.session

    @property
    def inputs(self) -> list[str]:
        """The inputs that have tangents."""
        return list(self._plan.inputs)

    @property
    def outputs(self) -> list[str]:
        """The outputs that have tangents."""
        return list(self._plan.outputs)

    def _shaped(self, results: dict[str, Array]) -> OutT:
        return cast("OutT", next(iter(results.values())) if self._single else results)

    def __repr__(self) -> str:
        kind, plan = type(self).__name__, self._plan
        return f"<{kind} {plan.session}: {', '.join(plan.inputs)} to {', '.join(plan.outputs)}>"


class Linearization(_Base[OutT]):
    """The derivative of a `Function` at a point; a context manager that ends it.

    A tangent or cotangent with one axis more than its input or output is many of them, stacked on
    axis 0, and so are then all results. A resident tensor is always one.

    Raises:
        SessionNotFound: (every run) It has ended; `expired_at` says when, if by itself.
    """

    def __init__(self, plan: LinearPlan, perform: Performer, *, single: bool) -> None:
        super().__init__(plan, single=single)
        self._perform = perform

    def pushforward(
        self, tangents: Mapping[str, TensorLike] | None = None, /, **named: TensorLike
    ) -> OutT:
        """The Jacobian times a tangent: in the shape of the function's result.

        Args:
            tangents: By input name; those left out are zero.
            named: The same.
        """
        exchange = self._plan.pushforward({**(tangents or {}), **named})
        return self._shaped(self._perform(exchange))

    def pullback(
        self,
        cotangent: TensorLike | Mapping[str, TensorLike] | None = None,
        /,
        **named: TensorLike,
    ) -> dict[str, Array]:
        """The transposed Jacobian times a cotangent, by input name.

        Args:
            cotangent: Of the only output, or by output name; those left out are zero.
            named: By output name.
        """
        given = self._plan.cotangents(cotangent, dict(named))
        return self._perform(self._plan.pullback(given))

    def close(self) -> None:
        """Ends it; what the server keeps of it is freed."""
        self._perform(self._plan.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncLinearization(_Base[OutT]):
    """As `Linearization`, of an `AsyncFunction`: `async with await f.linearize(x=x) as lin`."""

    def __init__(self, plan: LinearPlan, perform: AsyncPerformer, *, single: bool) -> None:
        super().__init__(plan, single=single)
        self._perform = perform

    async def pushforward(
        self, tangents: Mapping[str, TensorLike] | None = None, /, **named: TensorLike
    ) -> OutT:
        """As `Linearization.pushforward`."""
        exchange = self._plan.pushforward({**(tangents or {}), **named})
        return self._shaped(await self._perform(exchange))

    async def pullback(
        self,
        cotangent: TensorLike | Mapping[str, TensorLike] | None = None,
        /,
        **named: TensorLike,
    ) -> dict[str, Array]:
        """As `Linearization.pullback`."""
        given = self._plan.cotangents(cotangent, dict(named))
        return await self._perform(self._plan.pullback(given))

    async def close(self) -> None:
        """As `Linearization.close`."""
        await self._perform(self._plan.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
