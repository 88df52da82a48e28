"""What one block of queries sees of the kept keys, as a mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from transom.attention.image_blocks import KeyBlocks
from transom.attention.patterns import Pattern
from transom.policies import Positional

__all__ = ["VisibleBlock", "visible_block"]


@dataclass(eq=False)
class VisibleBlock:
    """The keys that a block of queries needs, and who sees which of them.

    Attributes:
        queries: which of the queries.
        columns: which of the keys.
        mask: `(rows, 1 or heads, q_len, columns)` bool, true where a query sees a key.
        blind: `(rows, 1 or heads, q_len, 1)` bool, queries from which a pattern hides every key;
            None where there is no pattern, or the pinned keys are apart.
    """

    queries: slice
    columns: Tensor | slice
    mask: Tensor
    blind: Tensor | None = None
    _bias: Tensor | None = field(default=None, repr=False)

    def bias(self, q: Tensor, scores: Tensor) -> Tensor:
        """The scores of the pinned keys, then 0 or -inf for the local keys.

        Layers fill in the same tensor one after the other, unless there are gradients.

        Args:
            q: `(batch, heads, q_len, head_dim)`, the queries of the block.
            scores: `(batch, heads, q_len, pinned)` float32.

        Returns:
            `(batch, heads, q_len, pinned + columns)`.
        """
        pinned = scores.shape[3]
        size = (*q.shape[:3], pinned + self.mask.shape[3])
        if scores.requires_grad:  # each layer's own, in the dtype that has a gradient
            local = torch.full_like(self.mask, -torch.inf, dtype=q.dtype)
            local = local.masked_fill_(self.mask, 0)
            return torch.cat((scores.to(q.dtype), local.expand(*size[:3], -1)), dim=3)
        if self._bias is None or self._bias.shape != size:
            # On a CPU the fused kernel takes a float32 bias with queries in half precision. With
            # float64 queries it reads any bias as float64, without an error.
            wider = torch.promote_types(q.dtype, torch.float32)
            dtype = wider if q.device.type == "cpu" else q.dtype
            self._bias = torch.full(size, -torch.inf, dtype=dtype, device=q.device)
            self._bias[..., pinned:].masked_fill_(self.mask, 0)
        self._bias[..., :pinned] = scores
        return self._bias


def visible_block(
    policy: Positional,
    pattern: Pattern | None,
    queries: Tensor,
    keys: Tensor,
    span: slice,
    local_only: bool,
    blocks: KeyBlocks | None = None,
) -> VisibleBlock:
    """What a block of queries sees.

    Args:
        policy: decides what is visible.
        pattern: what must let a key through besides; None for nothing.
        queries: `(rows, q_len)` int64 positions of all queries.
        keys: `(rows, kv_len)` int64 positions in any order, -1 where there is no key.
        span: the queries of the block.
        local_only: leave the pinned keys out.
        blocks: of tokens that see each other besides; None where there are none.
    """
    queries = queries[:, span]
    pinned = (keys >= 0) & (keys < policy.pinned)
    wanted = (keys >= policy.local_start(queries.min())) & (keys >= 0)
    if blocks is None:  # otherwise a query may see later keys of its block
        wanted = wanted & (keys <= queries.max())
    wanted = wanted & ~pinned
    if not local_only:
        wanted |= pinned
    anywhere = wanted.any(dim=0)
    columns = slice(None) if bool(anywhere.all()) else anywhere.nonzero().flatten()
    keys = keys[:, None, None, columns]
    mask = policy.visible(queries[:, None, :, None], keys)
    if blocks is not None:
        mask = mask | blocks.same(span, columns)
    mask = mask & (keys >= 0)
    if pattern is not None:
        mask = mask & pattern.at(queries[:, None, :, None], keys.clamp(min=0))
    if local_only:
        mask &= keys >= policy.pinned
        return VisibleBlock(span, columns, mask)
    # A padding query before the first token of its row sees nothing, and a softmax over nothing is
    # NaN. Its output is never used, so it may as well see everything.
    blind = ~mask.any(dim=-1, keepdim=True)
    mask |= blind
    return VisibleBlock(span, columns, mask, None if pattern is None else blind)
