"""Functions: outputs of a session, called with arrays and differentiated.

`Function` and `AsyncFunction` are the same interface over a `RunPlan`; the second is awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, Protocol, Self, TypeVar, cast

from gradwire._linear import AsyncLinearization, Linearization
from gradwire._values import by_name

if TYPE_CHECKING:
    from gradwire._exchanges import Store
    from gradwire._protocol import Exchange
    from gradwire._runs import Feed, Reduce, RunPlan
    from gradwire._values import TensorLike
    from gradwire.wire.tensors import Array

__all__ = ["AsyncFunction", "Function", "JvpResult", "VjpResult"]

T = TypeVar("T")
OutT = TypeVar("OutT")


class VjpResult(NamedTuple, Generic[OutT]):
    """What a VJP gives.

    Attributes:
        outputs: An array, or a dict of them for a function of named outputs.
        gradients: By input name.
    """

    outputs: OutT
    gradients: dict[str, Array]


class JvpResult(NamedTuple, Generic[OutT]):
    """What a JVP gives.

    Attributes:
        outputs: An array, or a dict of them for a function of named outputs.
        tangents: The same for the outputs' tangents.
    """

    outputs: OutT
    tangents: OutT


class Performer(Protocol):
    """Performs exchanges, after what is recorded has been sent."""

    def __call__(self, exchange: Exchange[T]) -> T:
        """The exchange's result."""
        ...


class AsyncPerformer(Protocol):
    """As `Performer`, to be awaited."""

    def __call__(self, exchange: Exchange[T]) -> Awaitable[T]:
        """The exchange's result."""
        ...


class _Base(Generic[OutT]):
    """What both kinds share: how variants of a function are made."""

    def __init__(self, plan: RunPlan, *, single: bool) -> None:
        self._plan = plan
        self._single = single

    def _variant(self, plan: RunPlan) -> Self:
        raise NotImplementedError

    def options(
        self,
        *,
        deadline_ms: float | None = None,
        nan_policy: Literal["propagate", "error"] | None = None,
        tier: Literal["auto", "compiled", "interpreted"] | None = None,
    ) -> Self:
        """The same function with other options of its runs; None leaves one as it is.

        Args:
            deadline_ms: Milliseconds after which a run is given up (`DeadlineExceeded`).
            nan_policy: "error" to be told of the first non-finite value (`NonFinite`).
            tier: Which tier runs; "auto" never waits for the compiler.
        """
        given = {"deadline_ms": deadline_ms, "nan_policy": nan_policy, "tier": tier}
        kept = {name: value for name, value in given.items() if value is not None}
        return self._variant(replace(self._plan, options={**self._plan.options, **kept}))

    def vmap(self, in_axes: Mapping[str, int] | None = None, /, **axes: int) -> Self:
        """The function over many samples at once.

        The named inputs gain an axis, all results axis 0; gradients of the other inputs come one
        per sample, unless a run's `reduce` asks for their sum or mean.

        Args:
            in_axes: Mapped axes by input name, for names that are no identifiers.
            axes: Mapped axes by input name: `f.vmap(x=0)(x=batch, w=w)`.
        """
        mapped = {**self._plan.in_axes, **(in_axes or {}), **axes}
        return self._variant(replace(self._plan, in_axes=mapped))

    def _shaped(self, results: dict[str, Array]) -> OutT:
        return cast("OutT", next(iter(results.values())) if self._single else results)

    def __repr__(self) -> str:
        plan = self._plan
        keys = "declared outputs" if plan.outputs is None else ", ".join(plan.outputs)
        mapped = f", in_axes={dict(plan.in_axes)}" if plan.in_axes else ""
        return f"<{type(self).__name__} of {keys}{mapped}>"


def _feed(inputs: Feed | None, named: Feed) -> Feed:
    """The inputs of a call, given in a dict, by keyword or both.

    Raises:
        TypeError: Those given first have no names, as in `f([1, 2, 3])`.
    """
    return named if inputs is None else {**by_name("inputs", inputs), **named}


class Function(_Base[OutT]):
    """Outputs of a `Session`, to be called with arrays by input name: `f(x=x, w=w)`.

    Results are arrays, in a dict where the function was made of named outputs. Inputs are converted
    to the declared dtypes where NumPy calls that the same kind. An input whose name is no Python
    identifier, or one of the keywords here, is given through the mapping `inputs`.

    Every method raises what the server refuses the run with: `MissingInput`, `InputShapeMismatch`
    and the other subclasses of `GradwireError`.
    """

    def __init__(self, plan: RunPlan, perform: Performer, *, single: bool) -> None:
        super().__init__(plan, single=single)
        self._perform = perform

    def _variant(self, plan: RunPlan) -> Self:
        return type(self)(plan, self._perform, single=self._single)

    def __call__(
        self,
        inputs: Feed | None = None,
        *,
        reduce: Reduce = None,
        store: Store | None = None,
        **named: TensorLike,
    ) -> OutT:
        """The outputs.

        Args:
            store: Results that become resident tensors, by path: `{"outputs/w": "w"}`; references
                come back in their place.
            inputs: Input arrays by name.
            reduce: Under `vmap`: "sum" or "mean" over the samples, for all outputs or by path
                (`{"outputs/loss": "mean"}`).
            named: Input arrays by name.
        """
        return self._shaped(self._perform(self._plan.forward(_feed(inputs, named), reduce, store)))

    def vjp(
        self,
        cotangent: TensorLike | Feed | None = None,
        *,
        wrt: Sequence[str] | None = None,
        reduce: Reduce = None,
        store: Store | None = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> VjpResult[OutT]:
        """The outputs, and the cotangent pulled back to the inputs.

        Args:
            cotangent: Of the output's shape, or by output name; with a single scalar output it may
                be left out (1), and with several, those left out are zero.
            wrt: Inputs whose gradients are wanted; by default every differentiable one.
            reduce: Under `vmap`: "sum" or "mean" over the samples, for the gradients of all
                unmapped inputs or by path (`{"gradients/w": "mean"}`).
            store: Results that become resident tensors, by path: `{"outputs/w": "w"}`; references
                come back in their place.
            inputs: Input arrays by name.
            named: Input arrays by name.
        """
        feed = _feed(inputs, named)
        outputs, gradients = self._perform(self._plan.vjp(cotangent, wrt, feed, reduce, store))
        return VjpResult(self._shaped(outputs), gradients)

    def value_and_grad(
        self,
        wrt: Sequence[str] | None = None,
        *,
        reduce: Reduce = None,
        store: Store | None = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> VjpResult[OutT]:
        """The value of a single scalar output, and its gradients.

        Args:
            wrt: Inputs whose gradients are wanted; by default every differentiable one.
            reduce: Under `vmap`: "sum" or "mean" over the samples, for the value and the gradients
                of all unmapped inputs, or by path.
            store: Results that become resident tensors, by path: `{"outputs/w": "w"}`; references
                come back in their place.
            inputs: Input arrays by name.
            named: Input arrays by name.
        """
        feed = _feed(inputs, named)
        exchange = self._plan.vjp(None, wrt, feed, reduce, store, reduce_outputs=True)
        outputs, gradients = self._perform(exchange)
        return VjpResult(self._shaped(outputs), gradients)

    def jvp(
        self,
        tangents: Feed,
        *,
        reduce: Reduce = None,
        store: Store | None = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> JvpResult[OutT]:
        """The outputs, and the tangents pushed forward to them.

        Args:
            tangents: By input name; those left out are zero.
            reduce: Under `vmap`, as in a call.
            store: Results that become resident tensors, by path: `{"outputs/w": "w"}`; references
                come back in their place.
            inputs: Input arrays by name.
            named: Input arrays by name.
        """
        feed = _feed(inputs, named)
        outputs, pushed = self._perform(self._plan.jvp(tangents, feed, reduce, store))
        return JvpResult(self._shaped(outputs), self._shaped(pushed))

    def hvp(
        self,
        v: Feed,
        *,
        wrt: Sequence[str] | None = None,
        cotangent: TensorLike | None = None,
        reduce: Reduce = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> dict[str, Array]:
        """The Hessian of a single output times a vector, by input name, in one request.

        Args:
            v: The vector, by input name; inputs left out are zero in it.
            wrt: The rows of the Hessian wanted; by default the inputs in `v`.
            cotangent: The output's weights, if it is no scalar.
            reduce: Under `vmap`: "sum" or "mean" over the samples, or by input name.
            inputs: Input arrays by name.
            named: Input arrays by name.
        """
        feed = _feed(inputs, named)
        return self._perform(self._plan.hvp(v, wrt, feed, cotangent, reduce))

    def jacobian(
        self,
        wrt: Sequence[str] | None = None,
        *,
        mode: Literal["auto", "reverse", "forward"] = "auto",
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> dict[str, Array]:
        """The Jacobian of a single output by input name, each of shape output + input.

        Args:
            wrt: The inputs; by default every differentiable one.
            mode: Rows by VJPs (one request), or columns by JVPs (one request for each input);
                "auto" takes what needs fewer of them.
            inputs: Input arrays by name.
            named: Input arrays by name.
        """
        return self._perform(self._plan.jacobian(wrt, _feed(inputs, named), mode))

    def hessian(
        self,
        wrt: Sequence[str] | None = None,
        *,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> dict[str, dict[str, Array]]:
        """The Hessian of a single scalar output: `h["x"]["w"]` is of shape x + w.

        One request for each input; `hvp` is what a large Hessian is for.

        Args:
            wrt: The inputs; by default every differentiable one.
            inputs: Input arrays by name.
            named: Input arrays by name.
        """
        return self._perform(self._plan.hessian(wrt, _feed(inputs, named)))

    def linearize(
        self,
        inputs: Feed | None = None,
        *,
        wrt: Sequence[str] | None = None,
        **named: TensorLike,
    ) -> Linearization[OutT]:
        """The derivative at a point: runs once, and then maps any number of (co)tangents.

        `with f.linearize(x=x) as lin:` ends it after the block; else the server does when nobody
        has used it for a while.

        Args:
            inputs: The point, by input name.
            wrt: Inputs that have tangents; by default every differentiable one.
            named: The point, by input name.
        """
        plan = self._perform(self._plan.linearize(_feed(inputs, named), wrt))
        return Linearization(plan, self._perform, single=self._single)


class AsyncFunction(_Base[OutT]):
    """As `Function`, of an `AsyncSession`: every run is awaited."""

    def __init__(self, plan: RunPlan, perform: AsyncPerformer, *, single: bool) -> None:
        super().__init__(plan, single=single)
        self._perform = perform

    def _variant(self, plan: RunPlan) -> Self:
        return type(self)(plan, self._perform, single=self._single)

    async def __call__(
        self,
        inputs: Feed | None = None,
        *,
        reduce: Reduce = None,
        store: Store | None = None,
        **named: TensorLike,
    ) -> OutT:
        """As `Function.__call__`."""
        feed = _feed(inputs, named)
        return self._shaped(await self._perform(self._plan.forward(feed, reduce, store)))

    async def vjp(
        self,
        cotangent: TensorLike | Feed | None = None,
        *,
        wrt: Sequence[str] | None = None,
        reduce: Reduce = None,
        store: Store | None = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> VjpResult[OutT]:
        """As `Function.vjp`."""
        feed = _feed(inputs, named)
        outputs, gradients = await self._perform(
            self._plan.vjp(cotangent, wrt, feed, reduce, store)
        )
        return VjpResult(self._shaped(outputs), gradients)

    async def value_and_grad(
        self,
        wrt: Sequence[str] | None = None,
        *,
        reduce: Reduce = None,
        store: Store | None = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> VjpResult[OutT]:
        """As `Function.value_and_grad`."""
        feed = _feed(inputs, named)
        outputs, gradients = await self._perform(
            self._plan.vjp(None, wrt, feed, reduce, store, reduce_outputs=True)
        )
        return VjpResult(self._shaped(outputs), gradients)

    async def jvp(
        self,
        tangents: Feed,
        *,
        reduce: Reduce = None,
        store: Store | None = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> JvpResult[OutT]:
        """As `Function.jvp`."""
        feed = _feed(inputs, named)
        outputs, pushed = await self._perform(self._plan.jvp(tangents, feed, reduce, store))
        return JvpResult(self._shaped(outputs), self._shaped(pushed))

    async def hvp(
        self,
        v: Feed,
        *,
        wrt: Sequence[str] | None = None,
        cotangent: TensorLike | None = None,
        reduce: Reduce = None,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> dict[str, Array]:
        """As `Function.hvp`."""
        feed = _feed(inputs, named)
        return await self._perform(self._plan.hvp(v, wrt, feed, cotangent, reduce))

    async def jacobian(
        self,
        wrt: Sequence[str] | None = None,
        *,
        mode: Literal["auto", "reverse", "forward"] = "auto",
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> dict[str, Array]:
        """As `Function.jacobian`."""
        feed = _feed(inputs, named)
        return await self._perform(self._plan.jacobian(wrt, feed, mode))

    async def hessian(
        self,
        wrt: Sequence[str] | None = None,
        *,
        inputs: Feed | None = None,
        **named: TensorLike,
    ) -> dict[str, dict[str, Array]]:
        """As `Function.hessian`."""
        return await self._perform(self._plan.hessian(wrt, _feed(inputs, named)))

    async def linearize(
        self,
        inputs: Feed | None = None,
        *,
        wrt: Sequence[str] | None = None,
        **named: TensorLike,
    ) -> AsyncLinearization[OutT]:
        """As `Function.linearize`."""
        plan = await self._perform(self._plan.linearize(_feed(inputs, named), wrt))
        return AsyncLinearization(plan, self._perform, single=self._single)
