"""`keydiff`: the tokens whose keys are unlike the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transom.policies.scored import Kept, Scored

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KeyDiff"]


@dataclass(frozen=True)
class KeyDiff(Scored):
    """The tokens whose keys point away from the mean direction of all keys.

    Source: KeyDiff, https://arxiv.org/abs/2504.15364.
    """

    name: ClassVar[str] = "keydiff"
    summary: ClassVar[str] = "keeps the tokens whose keys are least like the others"

    def score(self, kept: Kept) -> Tensor:
        directions = kept.keys / kept.keys.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        anchor = directions.mean(2, keepdim=True)
        anchor = anchor / anchor.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        alike: Tensor = (directions * anchor).sum(-1)
        return -alike
