"""Policies by score: keep the tokens that matter by the model's own attention and keys."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from transom.errors import PolicyError
from transom.policies.base import Policy, at_least, bytes_of, tokens_of
from transom.policies.precision import EXACT, FIRST, Precision
from transom.policies.pyramid import pyramid
from transom.policies.shape import ModelShape
from transom.validation import whole_number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FutureQueries", "Kept", "Scored"]

HEADS = ("equal", "adaptive")
LAYERS = ("equal", "pyramid")
EXAMPLE = "48MiB"
FEW = 8  # tokens; evicting fewer at a time is mostly overhead
POSITION_BYTES = 4  # int32, the position of each token
RECEIVED_BYTES = 4  # float32: attention received, and sums over queries


class FutureQueries(NamedTuple):
    """An estimate of the queries to come: their distribution, rotated to the positions ahead.

    Attributes:
        mean: `(rows, kv_heads, group, head_dim)` float32, for each query head of a kv head.
        covariance: `(rows, kv_heads, group, head_dim, head_dim)` float32.
    """

    mean: Tensor
    covariance: Tensor


class Kept(NamedTuple):
    """What one layer holds when it has to evict, oldest token first. Change nothing in it.

    Attributes:
        keys: `(rows, kv_heads, slots, head_dim)` float32, rotated as the queries see them.
        values: `(rows, kv_heads, slots, value_dim)` float32.
        attention_received: `(rows, kv_heads, slots)` float32, the attention weights that each token
            got from the queries that the policy watches, summed over these queries and over the
            heads of a group.
        positions: `(rows, kv_heads, slots)` int64, in the text.
        watched: how many queries `attention_received` sums over; None for all of them.
        scale: of the attention scores.
        future_queries: where the policy `expects`; otherwise None.
    """

    keys: Tensor
    values: Tensor
    attention_received: Tensor
    positions: Tensor
    watched: int | None
    scale: float
    future_queries: FutureQueries | None = None

    @property
    def received(self) -> Tensor:
        """The former name of `attention_received`."""
        _renamed("Kept.received", "Kept.attention_received")
        return self.attention_received

    @property
    def coming(self) -> FutureQueries | None:
        """The former name of `future_queries`."""
        _renamed("Kept.coming", "Kept.future_queries")
        return self.future_queries


def _renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is now called {new}; use that name.", DeprecationWarning, stacklevel=3)


@dataclass(frozen=True)
class Scored(Policy):
    """At most `size` tokens for each kv head of each layer; the lowest scores are evicted first.

    A head fills up to `size` tokens. When the next token comes, the `every` tokens with the lowest
    scores are evicted, but never one of the first `sinks` or of the `recent` newest. Evictions
    happen at the same tokens however the text is cut into chunks, so results do not depend on it.

    To write such a policy, define `score`, and say in `watches` which queries' attention it needs.

    Attributes:
        size: tokens per kv head, with the newest; or the bytes of the whole cache for a batch of
            one, as text (`"48MiB"`).
        sinks: how many of the first tokens are never evicted.
        recent: how many of the newest tokens are never evicted; a quarter of `size` by default.
        every: how many tokens are evicted together; by default a sixteenth of `size`, but at least
            8, and at most half of the tokens that may be evicted.
        heads: `"equal"`, or `"adaptive"` to share a layer's tokens out among its heads by score
            (AdaKV, https://arxiv.org/abs/2407.11550).
        layers: `"equal"`, or `"pyramid"` to give lower layers more of the same total
            (PyramidKV, https://arxiv.org/abs/2406.02069).
    """

    size: int | str = 1024
    sinks: int = 4
    recent: int | None = None
    every: int | None = None
    heads: str = "equal"
    layers: str = "equal"

    watches: ClassVar[int | None] = 0
    """How many of the last queries before an eviction count in `attention_received`, but none from
    before the previous eviction; None for every query so far."""
    remembers: ClassVar[bool] = False
    """Whether `attention_received` goes on adding up after an eviction, or starts from zero."""
    expects: ClassVar[int] = 0
    """Over how many positions ahead `Kept.future_queries` is averaged; 0 when it is not needed."""
    per_head: ClassVar[bool] = True
    """Whether heads are scored one by one, so that their budgets may differ."""

    @abstractmethod
    def score(self, kept: Kept) -> Tensor:
        """How much each token matters, `(rows, kv_heads, slots)`; the lowest are evicted.

        Use only methods and operators of the given arrays, and import no array library, so that
        policies work without torch.
        """

    def check(self) -> None:
        if isinstance(self.size, str):
            bytes_of(self, "size", EXAMPLE)
        else:
            at_least(self, "size", 2)
        at_least(self, "sinks", 0)
        if self.recent is not None:
            at_least(self, "recent", 1)
        if self.every is not None:
            at_least(self, "every", 1)
        for name, known in (("heads", HEADS), ("layers", LAYERS)):
            if getattr(self, name) not in known:
                raise PolicyError(
                    f"{self.name}: {name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(known)}."
                )
        if self.heads == "adaptive" and not self.per_head:
            raise PolicyError(
                f"{self.name} keeps the same tokens in every head, so heads=adaptive has nothing "
                "to share out; leave it out, or choose another policy."
            )
        if isinstance(self.size, int) and self._needs(self.size) > self.size:
            raise PolicyError(
                f"{self.name}: size is {self.size}, and {self.sinks} sinks, {self.newest} recent "
                f"tokens and {self.round} evicted together do not fit; expected sinks + recent + "
                "every <= size."
            )

    @property
    def tokens(self) -> int:
        """`size` in tokens.

        Raises:
            PolicyError: when it is given in bytes; `on` converts it to tokens.
        """
        return tokens_of(self, "size")

    @property
    def newest(self) -> int:
        """How many of the newest tokens are never evicted."""
        return self._newest(self.tokens)

    @property
    def round(self) -> int:
        """How many tokens are evicted together."""
        return self._round(self.tokens)

    def _newest(self, size: int) -> int:
        return max(1, size // 4) if self.recent is None else self.recent

    def _round(self, size: int) -> int:
        if self.every is not None:
            return self.every
        # Evicting few tokens costs as much as evicting many. At least half of the candidates stay.
        may_go = size - self.sinks - self._newest(size)
        return max(1, min(max(FEW, size // 16), may_go // 2))

    def _needs(self, size: int) -> int:
        return self.sinks + self._newest(size) + self._round(size)

    @property
    def watched(self) -> int | None:
        """How many of the last queries before each eviction are watched."""
        return None if self.watches is None else min(self.watches, self.round)

    @property
    def capacity(self) -> int:
        return self.tokens

    def kept(self, seen: int) -> int:
        """How many of `seen` tokens are still visible, in a head and layer of average size."""
        return self.filled(seen)

    def filled(self, seen: int) -> int:
        """Tokens that a head holds after `seen` tokens, until the next one comes.

        >>> from transom.policies import TOVA
        >>> [TOVA(8, sinks=1, every=2).filled(seen) for seen in (0, 7, 8, 9, 10, 11)]
        [0, 7, 8, 7, 8, 7]
        """
        over = seen - self.tokens - 1
        return seen if over < 0 else self.tokens - self.round + 1 + over % self.round

    def by_layer(self, layers: int) -> tuple[Scored, ...]:
        """The policy of each of the model's `layers` layers, from the first to the last."""
        if self.layers == "equal":
            return (self,) * layers
        smallest = self.sinks + 2
        while self._needs(smallest) > smallest:
            smallest += 1
        sizes = pyramid(self.tokens, layers, smallest)
        return tuple(replace(self, size=size, layers="equal") for size in sizes)

    @property
    def decides_by(self) -> str:
        return "score"

    @property
    def exact_tokens(self) -> int:
        return min(EXACT, self.newest)

    @property
    def exact_first(self) -> int:
        return min(FIRST, self.sinks)

    def layer_bytes(self, shape: ModelShape, tokens: int) -> int:
        """Bytes of one layer that holds `tokens` tokens, at least one, in each kv head.

        Each token is stored once, quantized or not. Besides keys and values a layer holds the
        positions, the attention received if the policy `watches`, and sums over queries if it
        `expects`.
        """
        precision, dim = Precision.of(self), shape.head_dim
        if precision is None:
            head = tokens * shape.head_bytes
        else:
            exact = min(tokens, precision.exact)
            head = precision.head_bytes(shape, tokens - exact, exact)
        head += tokens * (POSITION_BYTES + (RECEIVED_BYTES if self.watches != 0 else 0))
        sums = shape.heads * (dim + dim * dim) * RECEIVED_BYTES if self.expects else 0
        return shape.kv_heads * head + sums

    def visible_pairs(self, start: int, stop: int) -> int:
        held = np.arange(start, stop, dtype=np.int64) + 1
        over = held - self.tokens - 1  # as in `filled`
        once_full = self.tokens - self.round + 1 + over % self.round
        return int(np.where(over < 0, held, once_full).sum())

    def on(self, shape: ModelShape) -> Scored:
        if not isinstance(self.size, str):
            return self
        budget = bytes_of(self, "size", EXAMPLE)
        low, high = 1, budget // max(1, shape.token_bytes // 8) + 2
        while low + 1 < high:  # the largest size that fits; bytes grow with it
            middle = (low + high) // 2
            try:
                layers = replace(self, size=middle).by_layer(shape.layers)
                fits = sum(x.layer_bytes(shape, x.tokens) for x in layers) <= budget
            except PolicyError:
                fits = True  # too small for its own sinks; the last `replace` raises
            low, high = (middle, high) if fits else (low, middle)
        return replace(self, size=low)


def whole(policy: Scored, field: str, minimum: int, unit: str = "tokens") -> None:
    """Check one more integer parameter of a scored policy."""
    whole_number(policy.name, field, getattr(policy, field), minimum, unit=unit, error=PolicyError)
