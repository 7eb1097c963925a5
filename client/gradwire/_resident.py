"""Resident tensors: `client.tensors["w"] = w`, and then `f(x=x, w=client.tensors["w"])`.

What `client.tensors[name]` gives is a reference. It asks the server nothing until its array or its
type is wanted, and then each time anew: another run may have written the tensor meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradwire import _exchanges as exchanges
from gradwire._values import Reference

if TYPE_CHECKING:
    from gradwire._function import AsyncPerformer, Performer
    from gradwire._values import TensorLike
    from gradwire.wire.messages import Dtype, ResidentDocument
    from gradwire.wire.tensors import Array

__all__ = [
    "AsyncResidentTensor",
    "AsyncResidentTensors",
    "ResidentTensor",
    "ResidentTensors",
    "TensorInfo",
]


@dataclass(frozen=True)
class TensorInfo:
    """What the server says of a resident tensor.

    Attributes:
        name: Its name.
        shape: Its sizes.
        dtype: float32, float64, int64 or bool.
        nbytes: Its size in bytes.
        version: The number of the write that it comes from: every write of yours has a larger one,
            and tensors that one run wrote share it.
        updated_at: When that was, in ISO 8601.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    nbytes: int
    version: int
    updated_at: str

    @property
    def etag(self) -> str:
        """The version as HTTP has it."""
        return f'"{self.version}"'


def _told(document: ResidentDocument) -> TensorInfo:
    return TensorInfo(
        document["name"],
        tuple(document["shape"]),
        document["dtype"],
        document["bytes"],
        document["version"],
        document["updated_at"],
    )


class ResidentTensor(Reference):
    """A resident tensor of a `Client`, by its name; NumPy makes an array of it where one is needed.

    Raises:
        TensorNotFound: (every property and method) There is none of that name.
    """

    def __init__(self, name: str, perform: Performer) -> None:
        super().__init__(name)
        self._perform = perform

    def info(self) -> TensorInfo:
        """All that there is to say of it but its numbers, in one request."""
        return _told(self._perform(exchanges.tensor_info(self.name)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return self.info().shape

    @property
    def dtype(self) -> Dtype:
        """Its dtype by name."""
        return self.info().dtype

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.info().nbytes

    @property
    def version(self) -> int:
        """The number of the write that it comes from."""
        return self.info().version

    @property
    def etag(self) -> str:
        """The version as HTTP has it."""
        return self.info().etag

    def numpy(self) -> Array:
        """The array, fetched."""
        return self._perform(exchanges.tensor_data(self.name))

    def __array__(
        self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None
    ) -> Array:
        array = self.numpy()  # nobody else has it
        return array if dtype is None else array.astype(dtype, copy=bool(copy))

    def __repr__(self) -> str:
        return f"<ResidentTensor {self.name!r}>"


class AsyncResidentTensor(Reference):
    """As `ResidentTensor`, of an `AsyncClient`: what asks the server is awaited."""

    def __init__(self, name: str, perform: AsyncPerformer) -> None:
        super().__init__(name)
        self._perform = perform

    async def info(self) -> TensorInfo:
        """As `ResidentTensor.info`: shape, dtype, version and the rest."""
        return _told(await self._perform(exchanges.tensor_info(self.name)))

    async def numpy(self) -> Array:
        """The array, fetched."""
        return await self._perform(exchanges.tensor_data(self.name))

    def __repr__(self) -> str:
        return f"<AsyncResidentTensor {self.name!r}>"


class ResidentTensors:
    """The resident tensors of a client by name, much as a dict.

    `tensors[name] = array` sends one, `tensors[name]` gives a reference without asking whether it
    is there, `del tensors[name]` removes it. Iteration is by name.
    """

    def __init__(self, perform: Performer, *, binary: bool) -> None:
        self._perform = perform
        self._binary = binary

    def __getitem__(self, name: str) -> ResidentTensor:
        return ResidentTensor(name, self._perform)

    def __setitem__(self, name: str, value: TensorLike) -> None:
        self.put(name, value)

    def __delitem__(self, name: str) -> None:
        self._perform(exchanges.delete_tensor(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._perform(exchanges.has_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return (info.name for info in self.infos())

    def __len__(self) -> int:
        return sum(1 for _ in self.infos())

    def put(
        self, name: str, value: TensorLike, *, version: int | None = None, new: bool = False
    ) -> TensorInfo:
        """Keeps a tensor under a name.

        Args:
            name: As names of values: 1 to 200 of `A-Za-z0-9_./:-`, slashes included.
            value: An array, or a reference to a tensor that is to be copied.
            version: Only if this is the version of what is there now.
            new: Only if nothing is there yet.

        Raises:
            VersionConflict: There is something else there than `version` or `new` says.
            QuotaExceeded, StorageFull: There is no room for it. What was there is unchanged.
        """
        exchange = exchanges.put_tensor(name, value, version, new=new, binary=self._binary)
        return _told(self._perform(exchange))

    def infos(self) -> Iterator[TensorInfo]:
        """What the server says of every tensor, asked for page by page."""
        cursor: str | None = None
        while True:
            page = self._perform(exchanges.tensor_page(cursor))
            yield from map(_told, page["tensors"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def __repr__(self) -> str:
        return "<ResidentTensors>"


class AsyncResidentTensors:
    """As `ResidentTensors`, of an `AsyncClient`: `await tensors.put("w", w)`, `tensors["w"]`."""

    def __init__(self, perform: AsyncPerformer, *, binary: bool) -> None:
        self._perform = perform
        self._binary = binary

    def __getitem__(self, name: str) -> AsyncResidentTensor:
        return AsyncResidentTensor(name, self._perform)

    async def put(
        self, name: str, value: TensorLike, *, version: int | None = None, new: bool = False
    ) -> TensorInfo:
        """As `ResidentTensors.put`."""
        exchange = exchanges.put_tensor(name, value, version, new=new, binary=self._binary)
        return _told(await self._perform(exchange))

    async def delete(self, name: str) -> None:
        """Removes a tensor."""
        await self._perform(exchanges.delete_tensor(name))

    async def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return await self._perform(exchanges.has_tensor(name))

    async def infos(self) -> AsyncIterator[TensorInfo]:
        """As `ResidentTensors.infos`."""
        cursor: str | None = None
        while True:
            page = await self._perform(exchanges.tensor_page(cursor))
            for document in page["tensors"]:
                yield _told(document)
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def __aiter__(self) -> AsyncIterator[str]:
        async for info in self.infos():
            yield info.name

    def __repr__(self) -> str:
        return "<AsyncResidentTensors>"
