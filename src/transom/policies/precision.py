"""How many bytes a number takes that is stored in few bits; arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from transom.policies.base import Policy
from transom.policies.scored import Scored

__all__ = ["Precision"]

EXACT = 64  # newest tokens kept as they came
FIRST = 4  # first tokens kept as they came
SCALE_BYTES = 2  # a bfloat16, and a float16 for the offset
GROUP = 32  # int4: numbers that share a scale and an offset


@dataclass(frozen=True)
class Precision:
    """Bits per number, and how many of the newest tokens are kept exactly.

    Attributes:
        bits: 8 or 4.
        exact: newest tokens that are kept as the model computed them.
        first: first tokens that are, as long as the policy keeps them. Attention leans on them, and
            their keys are unlike all others (KVQuant, https://arxiv.org/abs/2401.18079).
    """

    bits: int
    exact: int
    first: int

    @classmethod
    def of(cls, policy: Policy) -> Precision | None:
        """What a policy asks for; None where numbers are stored as they come."""
        if policy.kv == "auto":
            return None
        if isinstance(policy, Scored):
            most, first = policy.newest, policy.sinks
        else:
            most = EXACT if policy.capacity is None else policy.capacity - policy.pinned
            first = FIRST if policy.capacity is None else policy.capacity
        bits = int(policy.kv.removeprefix("int"))
        return cls(bits=bits, exact=min(EXACT, most), first=min(FIRST, first))

    def group(self, dim: int) -> int:
        """How many of `dim` numbers share a scale and an offset."""
        return dim if self.bits == 8 else gcd(dim, GROUP)

    def row_bytes(self, dim: int) -> int:
        """Bytes of `dim` numbers with their scales and offsets."""
        return dim * self.bits // 8 + dim // self.group(dim) * 2 * SCALE_BYTES
