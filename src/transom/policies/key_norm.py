"""`key-norm`: the tokens whose keys are short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transom.policies.scored import Kept, Scored

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KeyNorm"]


@dataclass(frozen=True)
class KeyNorm(Scored):
    """The tokens whose keys have the smallest L2 norm: those tend to receive the most attention.

    Source: https://arxiv.org/abs/2406.11430.
    """

    name: ClassVar[str] = "key-norm"
    summary: ClassVar[str] = "keeps the tokens whose keys are shortest"

    def score(self, kept: Kept) -> Tensor:
        lengths: Tensor = kept.keys.norm(dim=-1)
        return -lengths
