"""`tova`: the tokens that the newest query attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transom.policies.scored import Kept, Scored

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TOVA"]


@dataclass(frozen=True)
class TOVA(Scored):
    """The tokens that the newest query attends to, the same ones in every head of a layer.

    Source: TOVA, https://arxiv.org/abs/2401.06104. The paper evicts one token at a time, `every=1`.
    """

    name: ClassVar[str] = "tova"
    summary: ClassVar[str] = "keeps the tokens that the newest query attends to"
    watches: ClassVar[int | None] = 1
    per_head: ClassVar[bool] = False

    def score(self, kept: Kept) -> Tensor:
        return kept.attention_received.mean(1, keepdim=True).expand_as(kept.attention_received)
