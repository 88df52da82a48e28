"""Which tokens stay, by their scores."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["select_adaptively", "select_equally"]

SAFEGUARD = 0.2  # the share of an equal budget that AdaKV leaves every head


def select_equally(scores: Tensor, keep: int) -> Tensor:
    """The `keep` best slots of each head, `(rows, heads, keep)` int64 ascending.

    Among equal scores the oldest slots stay.

    Args:
        scores: `(rows, heads, slots)`.
        keep: slots that stay.
    """
    best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :keep]
    return best.sort(dim=-1).values


def select_adaptively(scores: list[Tensor], keep: int) -> list[Tensor]:
    """The best slots of all heads together, on average `keep` per head, ascending in each head.

    Every head keeps at least a fifth of `keep`: its own best slots.

    Source: AdaKV, https://arxiv.org/abs/2407.11550.

    Args:
        scores: `(slots,)` of each head; infinite for slots that must stay.
        keep: slots that stay in the average head.
    """
    safe = int(keep * SAFEGUARD)
    raised = []
    for head in scores:
        best = head.sort(descending=True, stable=True).indices[:safe]
        raised.append(head.index_fill(0, best, torch.inf))
    together = torch.cat(raised)
    best = together.sort(descending=True, stable=True).indices[: keep * len(scores)]
    stays = torch.zeros_like(together, dtype=torch.bool).index_fill_(0, best, True)
    return [part.nonzero().flatten() for part in stays.split([len(head) for head in scores])]
