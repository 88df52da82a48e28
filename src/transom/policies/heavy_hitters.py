"""`heavy-hitters`: the tokens that have received the most attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transom.policies.scored import Kept, Scored

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeavyHitters"]


@dataclass(frozen=True)
class HeavyHitters(Scored):
    """The tokens that have received the most attention so far, from all queries.

    Source: H2O, https://arxiv.org/abs/2306.14048.
    """

    name: ClassVar[str] = "heavy-hitters"
    summary: ClassVar[str] = "keeps the tokens that received the most attention from all queries"
    watches: ClassVar[int | None] = None
    remembers: ClassVar[bool] = True

    def score(self, kept: Kept) -> Tensor:
        return kept.attention_received
