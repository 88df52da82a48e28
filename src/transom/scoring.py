"""Per-token losses: of logits, and by windows that each start from nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from transom.validation import known_keywords
from transom.windows import TokenWindows
from transom.windows.cut import Cut

__all__ = ["by_windows", "losses"]

SCORED_AT_ONCE = 128  # rows of logits turned to losses together: a vocabulary wide, in float32


@known_keywords
def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood, `(tokens,)` float32 in nats.

    Args:
        logits: `(tokens, vocabulary)`, of any float dtype; what predicts each target.
        targets: `(tokens,)` ids.
    """
    rows, wanted = logits.split(SCORED_AT_ONCE), targets.split(SCORED_AT_ONCE)
    return torch.cat(
        [F.cross_entropy(a.float(), b, reduction="none") for a, b in zip(rows, wanted, strict=True)]
    )


@known_keywords
def by_windows(
    ids: NDArray[Any], cut: Cut, read: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[np.float32]:
    """Losses of a text that is read window by window, each token's from where it counts.

    Args:
        ids: `(tokens,)` token ids of one document.
        cut: how they are cut.
        read: gives the losses of a window's ids, each given those before it in the window, and of
            its first one given the window read before.

    Returns:
        `(tokens,)` float32; NaN for the first token, and for those that `cut` leaves out.
    """
    scored = np.full(len(ids), np.nan, dtype=np.float32)
    for window in TokenWindows(cut, ids, np.unique([0, len(ids)])):
        real = window.attention_mask == 1
        counts = np.flatnonzero(window.score_mask[real])
        scored[window.start + counts - cut.lead] = read(window.ids[real])[counts]
    return scored
