"""Losses of tokens: of logits, of what a context is fed, and of a text read by windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from transom.context.content import ContentEncoder
from transom.context.model import CausalLM, vocabulary_of
from transom.context.runner import Incoming, ModelRunner
from transom.errors import InputError
from transom.kv import BoundedCache
from transom.policies import Policy
from transom.tokens import as_ids
from transom.validation import IdsLike, TokenIds, known_keywords
from transom.windows import TokenWindows
from transom.windows.cut import Cut

__all__ = ["by_windows", "check_windows", "losses", "score", "score_by_windows"]

SCORED_AT_ONCE = 128  # tokens whose logits are in float32 at the same time


@known_keywords
def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood, `(tokens,)` float32 in nats.

    Args:
        logits: `(tokens, vocabulary)`, of any float dtype; the predictions of the targets.
        targets: `(tokens,)` ids.
    """
    rows, wanted = logits.split(SCORED_AT_ONCE), targets.split(SCORED_AT_ONCE)
    return torch.cat(
        [F.cross_entropy(a.float(), b, reduction="none") for a, b in zip(rows, wanted, strict=True)]
    )


def score(runner: ModelRunner, incoming: Incoming) -> NDArray[np.float32]:
    """Feed all chunks or none; the loss of each token, `(tokens,)` float32 in nats.

    NaN for a token that nothing predicts: the first of all, or the first after some were trimmed.
    """
    scored = []
    with runner.all_or_nothing():
        for chunk in runner.each(incoming):
            before = runner.logits
            logits = runner.forward(chunk, every=True)
            unknown = torch.full((1,), torch.nan, dtype=torch.float32, device=chunk.device)
            scored.append(losses(before[None], chunk[:1]) if before is not None else unknown)
            if len(chunk) > 1:
                scored.append(losses(logits[:-1], chunk[1:]))
        return torch.cat(scored).cpu().numpy() if scored else np.empty(0, dtype=np.float32)


@known_keywords
def by_windows(
    ids: TokenIds, cut: Cut, read: Callable[[TokenIds], NDArray[np.floating]]
) -> NDArray[np.float32]:
    """Losses of a text that is read window by window; each token counts in one window only.

    Args:
        ids: `(tokens,)` token ids of one document.
        cut: how it is cut into windows.
        read: gives the losses of a window's ids. Each id is predicted from those before it in the
            window, and the first one from the window read before.

    Returns:
        `(tokens,)` float32; NaN for the first token, and for those that `cut` leaves out.
    """
    scored = np.full(len(ids), np.nan, dtype=np.float32)
    for window in TokenWindows(cut, ids, np.unique([0, len(ids)])):
        real = window.attention_mask == 1
        counts = np.flatnonzero(window.score_mask[real])
        scored[window.start + counts - cut.lead] = read(window.ids[real])[counts]
    return scored


def check_windows(cut: Cut, policy: Policy) -> None:
    """Refuse windows in which a policy would hide some ids from others.

    Raises:
        InputError: when they are larger than the policy's capacity.
    """
    if policy.capacity is not None and cut.size > policy.capacity:
        raise InputError(
            f"windows of {cut.size} ids were asked for, and {policy} lets {policy.capacity} be "
            "seen; expected smaller windows, or a context whose policy is 'full'."
        )


def score_by_windows(model: CausalLM, ids: IdsLike, cut: Cut, chunk: int) -> NDArray[np.float32]:
    """Losses of token ids that are read by windows, in a cache of their own; see `by_windows`.

    Args:
        chunk: tokens that are fed at once.

    Raises:
        InputError: when these are not ids of the model's vocabulary.
    """
    runner = ModelRunner(model, BoundedCache("full", config=model.config))
    encoder = ContentEncoder(runner, None, chunk)

    def read(window: TokenIds) -> NDArray[np.float32]:
        runner.cache.reset()  # but not the last logits: they predict the first token here
        return score(runner, encoder.content(window, reply=False))

    return by_windows(as_ids(ids, vocabulary_of(model)), cut, read)
