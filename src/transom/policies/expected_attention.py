"""`expected-attention`: the tokens that future queries are expected to attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transom.policies.scored import Kept, Scored

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ExpectedAttention"]

EPSILON = 0.02  # so that a token with no attention at all still counts by its value


@dataclass(frozen=True)
class ExpectedAttention(Scored):
    """The tokens that future queries are expected to attend to, and whose values are large.

    Queries are taken to be normally distributed, with the mean and covariance of those seen so far
    (but for the first `sinks`), at the positions that come next; the expected exponential of
    a score then has a closed form.

    Source: Expected Attention, https://arxiv.org/abs/2510.00636.
    """

    name: ClassVar[str] = "expected-attention"
    summary: ClassVar[str] = "keeps the tokens that future queries are expected to attend to"
    expects: ClassVar[int] = 512

    def score(self, kept: Kept) -> Tensor:
        assert kept.future_queries is not None
        mean, covariance = kept.future_queries
        keys = kept.keys[:, :, None]  # one kv head for its group of query heads
        linear = (keys * mean[..., None, :]).sum(-1)
        spread = ((keys @ covariance) * keys).sum(-1)
        exponent = kept.scale * linear + kept.scale**2 / 2 * spread
        attention = exponent.softmax(-1).mean(2)
        lengths: Tensor = kept.values.norm(dim=-1)
        return (attention + EPSILON) * lengths
