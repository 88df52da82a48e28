"""Attention of many queries over kept keys, each query seeing what the policy lets it see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.attention.attending import Attending, left_out
from transom.attention.correction import Correction
from transom.attention.dispatch import blocks_pay
from transom.attention.image_blocks import KeyBlocks
from transom.attention.kernels.block_sparse import Apart, block_sparse
from transom.attention.kernels.explicit import KeyPart, explicit
from transom.attention.kernels.masked import masked
from transom.attention.key_run import KeyRun, key_run
from transom.attention.modes import like_fused
from transom.attention.patterns import Pattern
from transom.attention.patterns.layout import ALIGNED, Layout, layout
from transom.attention.rotary import Rotary
from transom.attention.score_rule import ScoreRule
from transom.attention.visible_block import VisibleBlock, visible_block
from transom.policies import Positional
from transom.slow_paths import log_slow_path

__all__ = ["Visibility"]

QUERY_BLOCK = 512  # bounds the scratch memory of a long prompt; larger is no faster
WORTH_BLOCKS = 32  # queries; for fewer, one masked call of the fused kernel is as fast


@dataclass(frozen=True, eq=False)
class Visibility(Attending):
    """Who sees whom in one forward pass of several tokens; the same for every layer.

    With compact positions, each query has its own distance to the pinned keys. So the queries are
    rotated, and the pinned keys stay as they are: that is exact for a chunk of any length.

    Attributes:
        policy: decides what is visible.
        queries: `(rows, q_len)` int64 positions; `rows` is 1 when all rows of the batch agree.
        keys: `(rows, kv_len)` int64 positions in any order, -1 where there is no key.
        rotary: how the model rotates its queries; needed with `rotation`.
        rotation: cosines and sines, `(rows, q_len, rotary_dim)` each, that rotate each query so
            that it is at its compact distance from the pinned keys, rotated as they came; None when
            every key is at the right distance already.
        layers_without_rope: layers without rotary positions, where nothing is rotated.
        pattern: what must let a key through besides the policy, by positions; None for nothing.
        blocks: of tokens that see each other, whatever the policy says; None for none.
        stored: the layers whose keys the cache has stored; the cache adds to it. None without one.
        owners: for a layer that attends to the keys of another layer, which one that is.
        correction: as for `Attending`.
    """

    policy: Positional
    queries: Tensor
    keys: Tensor
    rotary: Rotary | None = None
    rotation: tuple[Tensor, Tensor] | None = None
    layers_without_rope: frozenset[int] = frozenset()
    pattern: Pattern | None = None
    blocks: KeyBlocks | None = None
    stored: set[int] | None = None
    owners: Mapping[int, int] = field(default_factory=dict)
    correction: Correction | None = None
    _shared: dict[bool, VisibleBlock] = field(default_factory=dict, repr=False)

    @property
    def positions(self) -> Tensor:
        return self.queries

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> Visibility:
        """For some of the queries, as a mask `(batch, heads, q_len, kv_len)` is cut.

        Models whose last layers share keys (Gemma 4) run these only for the tokens that logits are
        asked for.
        """
        rows = index[2]
        rotation = self.rotation
        if rotation is not None:
            rotation = rotation[0][:, rows], rotation[1][:, rows]
        blocks = self.blocks
        if blocks is not None:
            blocks = blocks._replace(queries=blocks.queries[:, rows])
        queries = self.queries[:, rows]
        return replace(self, queries=queries, rotation=rotation, blocks=blocks, _shared={})

    @like_fused
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule | None = None, layer: int = 0
    ) -> Tensor:
        """As in `Attending`; the pinned keys in `k` are rotated as they came.

        Scratch memory is that of one block of queries, never `q_len * kv_len`.
        """
        layer = self.owners.get(layer, layer)
        if self.stored is not None and layer not in self.stored:
            raise left_out(layer)
        rule = ScoreRule(q.shape[-1] ** -0.5) if rule is None else rule
        split = self.rotation is not None and layer not in self.layers_without_rope
        run = self._run if rule.only_scales else None
        if run is not None:
            blocks = layout(run.pattern, q.shape[2], run.length, q.device)
            if blocks_pay(blocks.columns / (q.shape[2] * k.shape[2]), q):
                return self._attend_run(q, k, v, rule.scale, run, blocks, rotated=split)
        attend = self._attend_split if split else self._attend_together
        starts = range(0, q.shape[2], QUERY_BLOCK)
        parts = (self._block(start, local_only=split) for start in starts)  # one at a time
        outputs = [attend(q[:, :, part.queries], k, v, rule, part) for part in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _attend_run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scaling: float,
        run: KeyRun,
        blocks: Layout,
        rotated: bool,
    ) -> Tensor:
        """By blocks of queries that gather the local keys they see; one softmax with the pinned."""
        local_k, local_v = k[:, :, run.columns], v[:, :, run.columns]
        if not self.policy.pinned:
            return block_sparse(q, local_k, local_v, blocks, scaling)
        where, _ = self._pinned
        where = F.pad(where, (0, -self.policy.pinned % ALIGNED))
        queries = self._rotate(q, slice(None)) if rotated else q
        apart = Apart(queries, _take(k, where), _take(v, where), run.hidden)
        return block_sparse(q, local_k, local_v, blocks, scaling, apart)

    def _attend_together(
        self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule, block: VisibleBlock
    ) -> Tensor:
        """By one kernel under a mask of all keys."""
        k, v = k[:, :, block.columns], v[:, :, block.columns]
        if rule.only_scales:
            out = masked(q, k, v, block.mask, rule.scale)
        else:
            out = explicit([KeyPart(q, k, v, block.mask)], rule)
        return out if block.blind is None else out.masked_fill(block.blind, 0)

    def _attend_split(
        self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule, block: VisibleBlock
    ) -> Tensor:
        """One softmax over pinned and local keys, although a query meets them in two rotations.

        The scores of the pinned keys are computed first. The fused kernel gets them as the bias of
        keys that are zero. Under a rule that it does not compute, all scores are written out.
        """
        where, present = self._pinned
        pinned = _take(k, where)
        values = _take(v, where)
        rotated = self._rotate(q, block.queries)
        order = torch.arange(self.policy.pinned, device=q.device)
        queries = self.queries[:, None, block.queries, None]
        seen = order <= queries
        if self.blocks is not None:
            seen = seen | self.blocks.same(block.queries, where)
        seen = seen & present[:, None, None]
        if self.pattern is not None:
            seen = seen & self.pattern.at(queries, order)
        k, v = k[:, :, block.columns], v[:, :, block.columns]
        if not rule.only_scales:
            local = KeyPart(q, k, v, block.mask)
            return explicit([KeyPart(rotated, pinned, values, seen), local], rule)

        scores = _scores(rotated, pinned) * rule.scale
        bias = block.bias(q, scores.masked_fill(~seen, -torch.inf))
        k = torch.cat((torch.zeros_like(pinned), k), dim=2)
        v = torch.cat((values, v), dim=2)
        out = masked(q, k, v, bias, rule.scale)
        if self.pattern is None:
            return out
        sighted = block.mask.any(dim=-1, keepdim=True) | seen.any(dim=-1, keepdim=True)
        return out.masked_fill(~sighted, 0)

    def _rotate(self, q: Tensor, queries: slice) -> Tensor:
        """These queries as they meet the pinned keys."""
        assert self.rotation is not None and self.rotary is not None
        cos, sin = (table[:, None, queries] for table in self.rotation)
        return self.rotary.rotate_queries(q, cos, sin)

    def _block(self, start: int, local_only: bool) -> VisibleBlock:
        """The block of queries from `start`, computed once per pass when it is the only one."""
        if local_only in self._shared:
            return self._shared[local_only]
        span = slice(start, start + QUERY_BLOCK)
        block = visible_block(
            self.policy, self.pattern, self.queries, self.keys, span, local_only, self.blocks
        )
        if self.queries.shape[1] <= QUERY_BLOCK:
            self._shared[local_only] = block
        return block

    @cached_property
    def _run(self) -> KeyRun | None:
        """The local keys as a run; None where blocks cannot be used, or are not worth it."""
        if self.queries.shape[1] < WORTH_BLOCKS:
            return None
        if self.blocks is not None:
            reason = "some tokens see each other"
        elif self.keys.is_cuda:
            reason = "on a GPU, blocks would be many small products"
        elif len(self.keys) > 1 or len(self.queries) > 1:
            reason = "the rows of a batch have different lengths or padding"
        elif bool((self.keys < 0).any()):
            reason = "some slots of the cache are empty"
        else:
            run = key_run(self.policy, self.queries[0], self.keys[0], self.pattern)
            if run is not None:
                return run
            reason = "the kept keys have gaps, or the pattern differs between rows or heads"
        log_slow_path(
            "attention",
            f"every score of a prompt with the kept keys is computed, because {reason}.",
        )
        return None

    @cached_property
    def _pinned(self) -> tuple[Tensor, Tensor]:
        """`(rows, pinned)` each: the column of each pinned key, and whether it is there yet."""
        order = torch.arange(self.policy.pinned, device=self.keys.device)
        found = self.keys[:, None, :] == order[:, None]
        return found.int().argmax(dim=-1), found.any(dim=-1)


def _take(x: Tensor, where: Tensor) -> Tensor:
    """Columns of `x`, `(batch, kv_heads, kv_len, dim)`, by the indices of each row."""
    if where.shape[0] == 1:
        return x.index_select(2, where[0])
    batch, heads, _, dim = x.shape
    return x.gather(2, where[:, None, :, None].expand(batch, heads, -1, dim))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """`(batch, heads, q_len, kv_len)` products, each group of heads with its kv head."""
    batch, heads, q_len, dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(batch, kv_heads, heads // kv_heads * q_len, dim)
    return (grouped @ k.transpose(2, 3)).reshape(batch, heads, q_len, -1)
