"""Attention of many queries over kept keys, each query seeing what the policy lets it see."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.attention.attending import Attending, left_out
from transom.attention.dispatch import blocks_pay
from transom.attention.kernels.block_sparse import Apart, block_sparse
from transom.attention.kernels.masked import masked
from transom.attention.modes import like_fused
from transom.attention.patterns import Pattern, causal, sinks, sliding
from transom.attention.patterns import pattern as of_policy
from transom.attention.patterns.layout import ALIGNED, Layout, layout
from transom.attention.patterns.shift import shifted
from transom.attention.rotary import Rotary
from transom.policies import Positional

__all__ = ["Visibility"]

QUERY_BLOCK = 512  # bounds the scratch memory of a long prompt; larger is no faster
WORTH_BLOCKS = 32  # queries; for fewer, one masked call of the fused kernel is as fast


class KeyRun(NamedTuple):
    """Local keys that follow each other without a gap, the queries being the last of them.

    Attributes:
        columns: where they are among all keys, in the order of their positions.
        length: how many they are.
        pattern: who sees whom among them, counted from the first.
        apart: `(q_len, pinned and what fills up to ALIGNED)` bool, which pinned keys a query does
            not see; these meet their queries apart.
    """

    columns: Tensor | slice
    length: int
    pattern: Pattern
    apart: Tensor | None


class VisibleBlock(NamedTuple):
    """What a block of queries sees: which columns of the keys, and who sees which of them."""

    queries: slice
    columns: Tensor | slice
    mask: Tensor  # (rows, 1 or heads, q_len, columns) bool
    bias: list[Tensor]  # see Visibility._bias; every layer fills in the same one
    blind: Tensor | None = None  # (rows, 1 or heads, q_len, 1) bool, from whom a pattern hides all


@dataclass(frozen=True, eq=False)
class Visibility(Attending):
    """Who sees whom in one forward pass of several tokens; the same for every layer.

    Attributes:
        policy: decides what is visible.
        queries: `(rows, q_len)` int64 positions; `rows` is 1 when all rows of the batch agree.
        keys: `(rows, kv_len)` int64 positions in any order, -1 where there is no key.
        rotary: how the model turns its queries; needed with `rotation`.
        turn: `(rows, q_len, rotary_dim)` cosines and sines that bring each query to where the
            pinned keys, at the angles they came with, are at their compact distance; None when
            every key is at the right distance already.
        unturned: layers without rotary positions, which need no turning.
        pattern: what must let a key through besides the policy, by positions; None for nothing.
        stored: the layers whose keys a cache has stored, which it fills in; None without a cache.

    Turning the query rather than the pinned keys is what makes a chunk of many queries exact:
    each query has its own distance to the pinned keys, and these stay as they are.
    """

    policy: Positional
    queries: Tensor
    keys: Tensor
    rotary: Rotary | None = None
    rotation: tuple[Tensor, Tensor] | None = None
    layers_without_rope: frozenset[int] = frozenset()
    pattern: Pattern | None = None
    stored: set[int] | None = None
    _shared: dict[bool, VisibleBlock] = field(default_factory=dict, repr=False)

    @property
    def positions(self) -> Tensor:
        return self.queries

    @like_fused
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scaling: float | None = None, layer: int = 0
    ) -> Tensor:
        """As in `Attending`; of `k`, pinned keys are at the angles they came with.

        Scratch memory is that of one block of queries, never `q_len * kv_len`.
        """
        if self.stored is not None and layer not in self.stored:
            raise left_out(layer)
        scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
        split = self.rotation is not None and layer not in self.layers_without_rope
        run = self._run
        if run is not None:
            blocks = layout(run.pattern, q.shape[2], run.length, q.device)
            if blocks_pay(blocks.columns / (q.shape[2] * k.shape[2]), q):
                return self._attend_run(q, k, v, scaling, run, blocks, rotated=split)
        attend = self._attend_split if split else self._attend_together
        starts = range(0, q.shape[2], QUERY_BLOCK)
        parts = (self._block(start, local_only=split) for start in starts)  # one at a time
        outputs = [attend(q[:, :, part.queries], k, v, scaling, part) for part in parts]
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
        """By blocks of queries that gather the keys they see, in one softmax with the pinned."""
        local_k, local_v = k[:, :, run.columns], v[:, :, run.columns]
        if not self.policy.pinned:
            return block_sparse(q, local_k, local_v, blocks, scaling)
        where, _ = self._pinned
        met = q
        if rotated:
            assert self.rotation is not None and self.rotary is not None
            met = self.rotary.rotate(q, *(table[:, None] for table in self.rotation))
        where = F.pad(where, (0, -self.policy.pinned % ALIGNED))
        apart = Apart(met, _take(k, where), _take(v, where), run.apart)
        return block_sparse(q, local_k, local_v, blocks, scaling, apart)

    def _attend_together(
        self, q: Tensor, k: Tensor, v: Tensor, scaling: float, block: VisibleBlock
    ) -> Tensor:
        out = masked(q, k[:, :, block.columns], v[:, :, block.columns], block.mask, scaling)
        return out if block.blind is None else out.masked_fill(block.blind, 0)

    def _attend_split(
        self, q: Tensor, k: Tensor, v: Tensor, scaling: float, block: VisibleBlock
    ) -> Tensor:
        """One softmax over pinned and local keys, though they meet the query at two angles.

        The scores of the pinned keys are computed apart and enter the fused attention as the bias
        of keys that are zero.
        """
        assert self.rotation is not None and self.rotary is not None
        cos, sin = (table[:, None, block.queries] for table in self.rotation)
        where, present = self._pinned
        pinned = _take(k, where)
        scores = _scores(self.rotary.rotate(q, cos, sin), pinned) * scaling
        order = torch.arange(self.policy.pinned, device=q.device)
        queries = self.queries[:, None, block.queries, None]
        seen = (order <= queries) & present[:, None, None]
        if self.pattern is not None:
            seen = seen & self.pattern.at(queries, order)

        bias = self._bias(block, q, scores.masked_fill(~seen, -torch.inf))
        k = torch.cat((torch.zeros_like(pinned), k[:, :, block.columns]), dim=2)
        v = torch.cat((_take(v, where), v[:, :, block.columns]), dim=2)
        out = masked(q, k, v, bias, scaling)
        if self.pattern is None:
            return out
        sighted = block.mask.any(dim=-1, keepdim=True) | seen.any(dim=-1, keepdim=True)
        return out.masked_fill(~sighted, 0)

    def _bias(self, block: VisibleBlock, q: Tensor, scores: Tensor) -> Tensor:
        """The scores of the pinned keys, then the mask of the local ones, per head."""
        pinned = self.policy.pinned
        size = (*q.shape[:3], pinned + block.mask.shape[3])
        if scores.requires_grad:  # each layer's own, in the dtype that has a gradient
            local = torch.full_like(block.mask, -torch.inf, dtype=q.dtype)
            local = local.masked_fill_(block.mask, 0)
            return torch.cat((scores.to(q.dtype), local.expand(*size[:3], -1)), dim=3)
        if not block.bias or block.bias[-1].shape != size:
            # The fused kernel for CPUs takes float32 with half precision. With float64 it would
            # read it as float64, without a word.
            wider = torch.promote_types(q.dtype, torch.float32)
            dtype = wider if q.device.type == "cpu" else q.dtype
            bias = torch.full(size, -torch.inf, dtype=dtype, device=q.device)
            bias[..., pinned:].masked_fill_(block.mask, 0)
            block.bias.append(bias)
        block.bias[-1][..., :pinned] = scores
        return block.bias[-1]

    def _block(self, start: int, local_only: bool) -> VisibleBlock:
        """The block of queries from `start`, computed once per pass when it is the only one."""
        if local_only in self._shared:
            return self._shared[local_only]
        span = slice(start, start + QUERY_BLOCK)
        queries = self.queries[:, span]
        pinned = (self.keys >= 0) & (self.keys < self.policy.pinned)
        wanted = (self.keys >= self.policy.local_start(queries.min())) & (self.keys >= 0)
        wanted = (wanted & (self.keys <= queries.max())) & ~pinned
        if not local_only:
            wanted |= pinned
        anywhere = wanted.any(dim=0)
        columns = slice(None) if bool(anywhere.all()) else anywhere.nonzero().flatten()
        keys = self.keys[:, None, None, columns]
        mask = self.policy.visible(queries[:, None, :, None], keys) & (keys >= 0)
        if self.pattern is not None:
            mask = mask & self.pattern.at(queries[:, None, :, None], keys.clamp(min=0))
        if local_only:
            mask &= keys >= self.policy.pinned
        else:
            # A padding query before its row's first token sees nothing, and a softmax over
            # nothing is NaN. Its output is never used, so it may as well see everything.
            blind = ~mask.any(dim=-1, keepdim=True)
            mask |= blind
        apart = local_only or self.pattern is None
        block = VisibleBlock(span, columns, mask, bias=[], blind=None if apart else blind)
        if self.queries.shape[1] <= QUERY_BLOCK:
            self._shared[local_only] = block
        return block

    @cached_property
    def _run(self) -> KeyRun | None:
        """The local keys as a run; None where rows differ, or a GPU's fused kernel is better."""
        if len(self.keys) > 1 or len(self.queries) > 1 or self.keys.is_cuda:
            return None
        queries, keys = self.queries[0], self.keys[0]
        if len(queries) < WORTH_BLOCKS or bool((keys < 0).any()):
            return None
        pinned = self.policy.pinned
        positions, order = keys.sort()
        # The first queries may be pinned tokens themselves, and then come before the local keys.
        ahead = pinned if int(queries[0]) >= pinned else 0
        start = max(int(self.policy.local_start(queries[0])), ahead)
        begin = int(torch.searchsorted(positions, start))
        local = positions[begin:]
        if not len(local) or int(local[-1]) != int(queries[-1]):
            return None
        if int(local[-1] - local[0]) != len(local) - 1 or bool((queries.diff() != 1).any()):
            return None
        first = int(local[0])
        pattern = _as_pattern(self.policy, queries, first)
        hidden = None
        if pinned:
            if not ahead:
                pattern = pattern & ~sinks(pinned)
            numbers = torch.arange(pinned, device=keys.device)
            hidden = numbers > queries[:, None]
        if self.pattern is not None:
            pattern = pattern & shifted(self.pattern, first)
            if hidden is not None:
                if self.pattern.batch or self.pattern.heads:
                    return None
                hidden |= ~self.pattern.at(queries[:, None], numbers)[0, 0]
        if hidden is not None:
            hidden = F.pad(hidden, (0, -pinned % ALIGNED), value=True)
        columns: Tensor | slice = order[begin:]
        if bool((order[begin:].diff() == 1).all()):
            columns = slice(int(order[begin]), int(order[-1]) + 1)
        return KeyRun(columns, len(local), pattern, hidden)

    @cached_property
    def _pinned(self) -> tuple[Tensor, Tensor]:
        """`(rows, pinned)`: in which column each pinned key is, and whether it is there yet."""
        order = torch.arange(self.policy.pinned, device=self.keys.device)
        found = self.keys[:, None, :] == order[:, None]
        return found.int().argmax(dim=-1), found.any(dim=-1)


def _as_pattern(policy: Positional, queries: Tensor, first: int) -> Pattern:
    """What a policy lets be seen of local keys, when these are counted from `first`."""
    starts = policy.local_start(queries)
    if bool((starts.diff() == 1).all()):  # a pattern that is the same for every chunk of a text
        return sliding(int(queries[0] - starts[0]) + 1)
    if int(starts.max()) <= first:
        return causal()
    return shifted(of_policy(policy), first)


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
