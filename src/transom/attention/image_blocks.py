"""Blocks of tokens that see each other both ways, as the tokens of one image do in Gemma 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from transom.attention.causal_text import BLOCK
from transom.errors import CacheError

__all__ = ["KeyBlocks", "image_blocks"]


class KeyBlocks(NamedTuple):
    """The block of each query and of each key of a pass; -1 for those in none.

    Attributes:
        queries: `(rows, q_len)` int64.
        keys: `(rows, kv_len)` int64.
    """

    queries: Tensor
    keys: Tensor

    def same(self, queries: slice, keys: Tensor | slice) -> Tensor:
        """`(rows, 1, q_len, columns)` bool: whether a query and a key are in one block.

        Args:
            queries: which of the queries.
            keys: which of the keys: a slice, `(columns,)` indices, or `(rows, columns)` indices.
        """
        asking = self.queries[:, None, queries, None]
        if isinstance(keys, Tensor) and keys.ndim == 2:
            rows = max(len(self.keys), len(keys))
            held = self.keys.expand(rows, -1).gather(1, keys.expand(rows, -1))
        else:
            held = self.keys[:, keys]
        return (asking == held[:, None, None]) & (asking >= 0)


def image_blocks(
    *,
    mask_function: Callable[..., Tensor] | None,
    batch_size: int,
    q_length: int,
    device: torch.device,
    q_offset: int = 0,
    local_size: int | None = None,
    use_vmap: bool = False,
    **_: object,
) -> Tensor | None:
    """The block of each new token, `(batch, q_len)` int64 on the CPU, -1 for one in none.

    Takes what transformers gives a mask function.

    Returns:
        None where the mask is anything but causal text with blocks of neighbours that see each
        other.

    Raises:
        CacheError: when a block began in an earlier pass, whose queries have not seen all of it.
    """
    if use_vmap or mask_function is None or q_length < 2 or local_size is not None:
        return None
    rows = torch.arange(batch_size, device=device)[:, None, None]
    new = torch.arange(q_length, device=device)

    def seen_by(queries: Tensor) -> Tensor:
        seen = mask_function(rows, 0, queries[:, None] + int(q_offset), new + int(q_offset))
        return torch.as_tensor(seen, device=device).expand(batch_size, len(queries), q_length)

    parts = new.split(BLOCK)
    last = torch.cat([(seen_by(part) * (new + 1)).amax(-1) - 1 for part in parts], dim=1)
    ends = torch.maximum(last, new).cummax(dim=1).values
    begins = torch.ones_like(ends, dtype=torch.bool)
    begins[:, 1:] = new[1:] > ends[:, :-1]
    blocks = torch.where(begins & (ends == new), -1, begins.cumsum(dim=1))
    for part in parts:
        same = (blocks[:, part, None] == blocks[:, None]) & (blocks[:, part, None] >= 0)
        if not torch.equal(seen_by(part), (new <= part[:, None]) | same):
            return None
    if q_offset:
        before = torch.as_tensor(
            mask_function(rows, 0, new[:1] + int(q_offset) - 1, new[:1] + int(q_offset))
        )
        if bool(before.any()):
            raise CacheError(
                "tokens that see each other (such as those of an image) came in two forward "
                "passes; expected all of them in one. Feed a longer chunk."
            )
    return blocks.cpu()
