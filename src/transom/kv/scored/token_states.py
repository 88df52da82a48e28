"""Keys or values in a pool: exact, or quantized."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from transom.kv.cache_layer import zeros
from transom.kv.quantization import Channels, Codes, decode, encode, storage
from transom.kv.scored.pool import PoolPart, SlotMove
from transom.policies import Precision

__all__ = ["ExactStates", "QuantizedStates", "TokenStates", "states"]

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class TokenStates(ABC):
    """How the keys or values of a layer's tokens are stored, in tensors that the layer holds.

    Attributes:
        name: `"keys"` or `"values"`.
    """

    name: str

    @abstractmethod
    def allocate(self, like: Tensor, slots: int) -> Tensors:
        """Empty storage for `slots` tokens per head, for states `(batch, kv_heads, _, dim)`."""

    @abstractmethod
    def write(self, tensors: Tensors, part: PoolPart, at: int, x: Tensor) -> None:
        """Store `x`, `(rows, heads, tokens, dim)`, behind the `at` tokens that a part holds."""

    @abstractmethod
    def read(self, tensors: Tensors, part: PoolPart, stop: int) -> Tensor:
        """All `stop` tokens that a part holds, `(rows, heads, stop, dim)`; maybe a view."""

    @abstractmethod
    def move(self, tensors: Tensors, move: SlotMove) -> None:
        """Keep some of the tokens, the newest among them."""


class ExactStates(TokenStates):
    """Keys or values exactly as they come."""

    def allocate(self, like: Tensor, slots: int) -> Tensors:
        return {self.name: zeros(like, slots, like.shape[3])}

    def write(self, tensors: Tensors, part: PoolPart, at: int, x: Tensor) -> None:
        part.slots(tensors[self.name])[:, :, at : at + x.shape[2]] = x

    def read(self, tensors: Tensors, part: PoolPart, stop: int) -> Tensor:
        return part.slots(tensors[self.name])[:, :, :stop]

    def move(self, tensors: Tensors, move: SlotMove) -> None:
        move.apply(tensors[self.name])


@dataclass(frozen=True)
class QuantizedStates(TokenStates):
    """The newest few tokens exactly, the others quantized once they are no longer among those.

    Attributes:
        precision: bits, and how many tokens stay exact.
        by_channel: whether each channel is normalized by its own mean and width, which come from
            the first tokens that are quantized.
    """

    precision: Precision
    by_channel: bool

    def allocate(self, like: Tensor, slots: int) -> Tensors:
        body = slots - self.precision.exact
        return storage(self.name, like, body, self.precision, self.by_channel)

    def write(self, tensors: Tensors, part: PoolPart, at: int, x: Tensor) -> None:
        exact, first = self.precision.exact, self.precision.first
        if at < first:
            part.heads(tensors[f"{self.name}.first"])[:, :, at : at + x.shape[2]] = x[
                :, :, : first - at
            ]
        newest = part.heads(tensors[f"{self.name}.newest"])
        held = min(at, exact)
        together = torch.cat((newest[:, :, :held], x), dim=2) if held else x
        leaving = max(0, together.shape[2] - exact)
        newest[:, :, : together.shape[2] - leaving] = together[:, :, leaving:]
        if not leaving:
            return
        if self.by_channel and at == held:  # the first tokens to be quantized
            found = Channels.of(together[:, :, min(first, exact - 1) : exact])
            part.heads(tensors[f"{self.name}.mean"]).copy_(found.mean)
            part.heads(tensors[f"{self.name}.width"]).copy_(found.width)
        old = together[:, :, :leaving]
        if self.by_channel:
            old = self._channels(tensors, part).normal(old)
        quantized = encode(old, self.precision.bits, self.precision.group(x.shape[3]))
        for pool, states in zip(self._pools(tensors), quantized, strict=True):
            part.slots(pool)[:, :, at - held : at - held + leaving] = states

    def read(self, tensors: Tensors, part: PoolPart, stop: int) -> Tensor:
        newest = part.heads(tensors[f"{self.name}.newest"])
        exact = min(stop, self.precision.exact)
        if stop == exact:
            return newest[:, :, :exact]
        pools = (part.slots(pool)[:, :, : stop - exact] for pool in self._pools(tensors))
        channels = self._channels(tensors, part) if self.by_channel else None
        old = decode(Codes(*pools), self.precision.bits, channels)
        first = part.heads(tensors[f"{self.name}.first"])[:, :, : stop - exact]
        old = old.to(newest.dtype)
        old[:, :, : first.shape[2]] = first
        return torch.cat((old, newest), dim=2)

    def move(self, tensors: Tensors, move: SlotMove) -> None:
        for pool in self._pools(tensors):
            move.apply(pool, tail=self.precision.exact)

    def _pools(self, tensors: Tensors) -> tuple[Tensor, ...]:
        return tuple(tensors[f"{self.name}.{name}"] for name in Codes._fields)

    def _channels(self, tensors: Tensors, part: PoolPart) -> Channels:
        return Channels(*(part.heads(tensors[f"{self.name}.{x}"]) for x in Channels._fields))


def states(precision: Precision | None) -> tuple[TokenStates, TokenStates]:
    """How keys and values are stored."""
    if precision is None:
        return ExactStates("keys"), ExactStates("values")
    return QuantizedStates("keys", precision, True), QuantizedStates("values", precision, False)
