"""`snapkv`: the tokens that the last few queries attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transom.errors import PolicyError
from transom.policies.scored import Kept, Scored, whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SnapKV"]

STAYS = 1e30  # above the attention that any token receives, in any head


@dataclass(frozen=True)
class SnapKV(Scored):
    """The tokens, with their neighbours, that the last few queries before an eviction attend to.

    The watched queries are the last 32, or all since the previous eviction if those are fewer.
    Their attention is averaged over `kernel` neighbouring tokens, so that a token is kept together
    with its neighbours.

    Source: SnapKV, https://arxiv.org/abs/2404.14469. The paper evicts once, at the end of the
    prompt; here every eviction has its own observation window.
    """

    kernel: int = 5

    name: ClassVar[str] = "snapkv"
    summary: ClassVar[str] = "keeps the tokens that the last few queries attend to, with neighbours"
    watches: ClassVar[int | None] = 32

    def check(self) -> None:
        super().check()
        whole(self, "kernel", 1)
        if self.kernel % 2 == 0:
            raise PolicyError(
                f"snapkv: kernel is {self.kernel}; expected an odd number of tokens, one in the "
                "middle."
            )

    def score(self, kept: Kept) -> Tensor:
        watched = kept.watched or 0
        before = kept.attention_received[..., : kept.attention_received.shape[-1] - watched]
        scores = kept.attention_received * 0 + STAYS  # those that watch
        scores[..., : before.shape[-1]] = _mean_of_neighbours(before, self.kernel)
        return scores


def _mean_of_neighbours(x: Tensor, kernel: int) -> Tensor:
    """The mean over `kernel` neighbours along the last axis, with zeros past the ends."""
    length, reach = x.shape[-1], kernel // 2
    total = x * 0
    for offset in range(-min(reach, length), min(reach, length) + 1):
        to = slice(max(0, -offset), length - max(0, offset))
        source = slice(max(0, offset), length + min(0, offset))
        total[..., to] += x[..., source]
    return total / kernel
