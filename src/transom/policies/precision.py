"""How many bytes quantized numbers take; arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Protocol

from transom.policies.shape import ModelShape

__all__ = ["EXACT", "FIRST", "Precision", "StoredTokens"]

EXACT = 64  # newest tokens that are not quantized
FIRST = 4  # first tokens that are not quantized
SCALE_BYTES = 2  # a bfloat16, and a float16 for the offset
GROUP = 32  # int4: how many numbers share a scale and an offset
CHANNEL_BYTES = 4  # offset and width of each channel of a head's keys, float32


class StoredTokens(Protocol):
    """What a policy says about its storage; `Policy` explains each property."""

    @property
    def kv(self) -> str: ...

    @property
    def exact_tokens(self) -> int: ...

    @property
    def exact_first(self) -> int: ...


@dataclass(frozen=True)
class Precision:
    """Bits per number, and how many tokens are not quantized.

    Attributes:
        bits: 8 or 4.
        exact: how many of the newest tokens are kept as the model computed them.
        first: how many of the first tokens are, as long as the policy keeps them. They receive much
            attention, and their keys are unlike all others (KVQuant,
            https://arxiv.org/abs/2401.18079).
    """

    bits: int
    exact: int
    first: int

    @classmethod
    def of(cls, policy: StoredTokens) -> Precision | None:
        """The precision that a policy asks for; None where nothing is quantized."""
        if policy.kv == "auto":
            return None
        bits = int(policy.kv.removeprefix("int"))
        return cls(bits=bits, exact=policy.exact_tokens, first=policy.exact_first)

    def group(self, dim: int) -> int:
        """How many of `dim` numbers share a scale and an offset."""
        return dim if self.bits == 8 else gcd(dim, GROUP)

    def row_bytes(self, dim: int) -> int:
        """Bytes of `dim` numbers with their scales and offsets."""
        return dim * self.bits // 8 + dim // self.group(dim) * 2 * SCALE_BYTES

    def head_bytes(self, shape: ModelShape, quantized: int, exact: int) -> int:
        """Bytes of one kv head of one layer.

        Args:
            quantized: how many tokens have a slot among the quantized ones.
            exact: how many of the newest are not quantized; the first ones come on top.
        """
        rows = sum(self.row_bytes(dim) for dim in shape.dims)
        whole = (exact + self.first) * shape.head_bytes
        return quantized * rows + whole + 2 * shape.head_dim * CHANNEL_BYTES
