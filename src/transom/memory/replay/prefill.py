"""How long it takes to compute keys and values, which is what a hit saves."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from transom.errors import InputError

__all__ = ["Prefill"]


@dataclass(frozen=True)
class Prefill:
    """Seconds that computing the keys and values of tokens takes, and loading them instead.

    The defaults are arithmetic, not measured: a model of 8 billion weights (Llama 3.1 8B: 32
    layers, 4,096 wide, 131,072 bytes of keys and values per token) at 4e14 operations and 26e9
    loaded bytes a second.

    Attributes:
        per_token: seconds of all matrix products with weights, for one token.
        per_pair: seconds of attention, for one token and one that it sees, itself included.
        load: seconds to fetch what was kept of one token.

    Raises:
        InputError: on a number that is negative or not finite.

    >>> Prefill(per_token=1e-3, per_pair=0, load=2e-4).saved(0, 100)
    0.08
    """

    per_token: float = 4.0e-5
    per_pair: float = 1.3e-9
    load: float = 5.0e-6

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"Prefill: {field.name} is {value}; expected seconds, 0 or more and finite."
                )

    def saved(self, start: int, stop: int) -> float:
        """Seconds saved when tokens `start` to `stop` of a prompt need not be computed.

        Never negative: what takes longer to load than to compute is computed.
        """
        count = stop - start
        pairs = count * (start + stop + 1) / 2
        return max(0.0, count * (self.per_token - self.load) + pairs * self.per_pair)
