"""Which keys of a pass are in a block with a query, where image tokens see each other."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.image_blocks import KeyBlocks
from transom.errors import CacheError
from transom.policies import Positional

__all__ = ["key_blocks"]


def key_blocks(
    policy: Positional,
    blocks: Tensor,
    fresh: Tensor,
    before: Tensor,
    keys: Tensor,
    device: torch.device,
) -> KeyBlocks:
    """The block of each query and of each key that is read, on `device`.

    Args:
        policy: decides what is kept.
        blocks: `(rows, tokens)` int64, the block of each new token, -1 for none.
        fresh: `(rows, tokens)` int64, their positions, -1 for padding.
        before: `(rows,)` real tokens that each row had seen.
        keys: `(rows, kv_len)` int64, the position of each key, -1 if empty.
        device: of the result.

    Raises:
        CacheError: when the last query of a block would not see its first token, because the
            policy keeps less.
    """
    blocks = torch.where(fresh < 0, -1, blocks)
    for row, own in enumerate(blocks):
        for block in own[own >= 0].unique():
            places = fresh[row, own == block]
            first, last = int(places[0]), int(places[-1])
            if int(policy.local_start(last)) > max(first, policy.pinned):
                raise CacheError(
                    f"{last - first + 1} tokens see each other (such as those of an image), which "
                    f"is more than {policy} keeps of the newest tokens; expected a policy that "
                    "keeps all of them. Use a larger one."
                )
    # New tokens by position: the real ones first, in their order.
    ranked = blocks.gather(1, torch.argsort((fresh < 0).int(), dim=1, stable=True))
    rank = keys - before[:, None]
    held = ranked.gather(1, rank.clamp(0, fresh.shape[1] - 1))
    held = torch.where((keys >= 0) & (rank >= 0), held, -1)
    return KeyBlocks(blocks.to(device), held.to(device))
