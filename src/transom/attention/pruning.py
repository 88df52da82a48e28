"""Attention pruned by content: each block of queries sees the blocks of keys that match best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.attention.kernels.workers import share
from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["BlockChoice", "attend_blocks", "choose_blocks", "mass_kept"]


@dataclass(frozen=True, eq=False)
class BlockChoice:
    """Which blocks of keys each block of queries sees; the query's own block is causal.

    Blocks start at multiples of `block`, counted from the first key.

    Attributes:
        kept: `(batch, kv_heads, query blocks, most blocks kept)` int64, ascending: the indices of
            the blocks of keys. If there are fewer, the first entries are -1.
        block: keys or queries per block.
        q_len, kv_len: how many queries and keys it was chosen for; the last query is at the last
            key.
    """

    kept: Tensor
    block: int
    q_len: int
    kv_len: int

    @property
    def first_block(self) -> int:
        """Index of the block that the first query is in."""
        return (self.kv_len - self.q_len) // self.block

    def queries(self, number: int) -> slice:
        """Indices of the queries in block `number`; the block of the first query has number 0."""
        offset = self.kv_len - self.q_len
        start = (self.first_block + number) * self.block - offset
        return slice(max(0, start), min(self.q_len, start + self.block))


@known_keywords
def choose_blocks(
    q: Tensor, k: Tensor, *, keep: int = 16, block: int = 64, sinks: int = 1, local: int = 1
) -> BlockChoice:
    """For each block of queries, the `keep` blocks of keys whose mean best matches its own mean.

    Source: block means as in MInference, https://arxiv.org/abs/2407.02490; blocks kept by content
    for each block of queries as in Quest, https://arxiv.org/abs/2406.10774.

    Args:
        q: `(batch, heads, q_len, head_dim)`; the heads of a group choose together.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        keep: how many blocks are kept, including those that are always kept.
        block: queries or keys per block.
        sinks: how many of the first blocks are always kept.
        local: how many of the latest blocks are always kept, including the query's own.

    Raises:
        InputError: on sizes that make no sense.
    """
    keep = whole_number("choose_blocks", "keep", keep, 1, unit="blocks")
    block = whole_number("choose_blocks", "block", block, 1)
    sinks = whole_number("choose_blocks", "sinks", sinks, 0, unit="blocks")
    local = whole_number("choose_blocks", "local", local, 1, unit="blocks")
    if sinks + local > keep:
        raise InputError(
            f"choose_blocks: keep is {keep}, sinks {sinks} and local {local}; expected "
            "sinks + local <= keep, because keep includes the blocks that are always kept."
        )
    if q.shape[2] > k.shape[2]:
        raise InputError(
            f"choose_blocks: {q.shape[2]} queries and {k.shape[2]} keys; expected no more queries "
            "than keys."
        )
    heads, q_len = q.shape[1:3]
    kv_heads, kv_len = k.shape[1:3]
    with torch.no_grad():
        lead = (kv_len - q_len) % block
        queries = _means(F.pad(q, (0, 0, lead, 0)), block)
        queries = queries.unflatten(1, (kv_heads, heads // kv_heads)).mean(2)
        scores = queries @ _means(k, block).transpose(2, 3)
        columns = torch.arange(scores.shape[3], device=q.device)
        own = torch.arange(scores.shape[2], device=q.device)[:, None] + (kv_len - q_len) // block
        scores.masked_fill_((columns < sinks) | (columns > own - local), math.inf)
        scores.masked_fill_(columns > own, -math.inf)
        best = scores.topk(min(keep, scores.shape[3]), sorted=False)
        kept = best.indices.masked_fill(best.values == -math.inf, -1).sort().values
    return BlockChoice(kept, block, q_len, kv_len)


@known_keywords
def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, choice: BlockChoice, *, scale: float | None = None
) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`, over the chosen blocks; causal.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        choice: the blocks, from `choose_blocks` with the same `q` and `k`.
        scale: of the scores, `head_dim ** -0.5` by default.

    Raises:
        InputError: if the choice was made for other sizes, or a gradient is asked for: the choice
            has none.
    """
    if (choice.q_len, choice.kv_len) != (q.shape[2], k.shape[2]):
        raise InputError(
            f"blocks were chosen for {choice.q_len} queries and {choice.kv_len} keys; got "
            f"{q.shape[2]} and {k.shape[2]}. Choose blocks for these queries and keys."
        )
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise InputError("pruning has no gradients; call attend_blocks inside torch.no_grad().")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    kv_heads, kv_len = k.shape[1:3]
    size, group = choice.block, q.shape[1] // kv_heads
    blocks = -(-kv_len // size)
    ending = (0, 0, 0, blocks * size - kv_len)
    keys, values = (F.pad(x, ending).unflatten(2, (blocks, size)).flatten(3) for x in (k, v))
    later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    out = q.new_empty(*q.shape[:3], v.shape[3])
    each = torch.arange(kv_heads, device=q.device)[:, None]

    def work(pieces: Iterable[tuple[int, int]]) -> None:
        for row, number in pieces:
            where = choice.queries(number)
            kept = choice.kept[row, :, number]
            kept = kept[:, int((kept[0] < 0).sum()) :]
            near_k, near_v = (
                x[row][each, kept].view(kv_heads, -1, dim)
                for x, dim in ((keys, k.shape[3]), (values, v.shape[3]))
            )
            mine = q[row, :, where] * scale
            rows = mine.shape[1]
            mine = mine.reshape(kv_heads, group * rows, -1)
            scores = torch.bmm(mine, near_k.transpose(1, 2)).view(kv_heads, group, rows, -1)
            within = (choice.kv_len - choice.q_len + where.start) % size
            scores[..., -size:].masked_fill_(later[within : within + rows], -math.inf)
            weights = torch.softmax(scores, -1).view(kv_heads, group * rows, -1)
            result = torch.bmm(weights, near_v)
            out[row, :, where] = result.view(kv_heads * group, rows, -1)

    numbers = range(choice.kept.shape[2])
    share(work, [(row, n) for row in range(len(q)) for n in numbers], q.device)
    return out


@known_keywords
def mass_kept(
    q: Tensor, k: Tensor, choice: BlockChoice, *, scale: float | None = None, queries: int = 64
) -> float:
    """The share of the weight of full causal attention that falls on the chosen blocks, 0 to 1.

    The mean over batch rows, heads and some evenly spread queries, for which all weights are
    computed.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        choice: the blocks, from `choose_blocks` with the same `q` and `k`.
        scale: of the scores, `head_dim ** -0.5` by default.
        queries: how many queries to look at.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    offset = choice.kv_len - choice.q_len
    count, last = min(queries, choice.q_len), choice.q_len - 1
    some = torch.linspace(0, last, count, dtype=torch.float64, device="cpu").round().long()
    group = q.shape[1] // k.shape[1]
    positions = some + offset
    with torch.no_grad():
        mine = q[:, :, some].float().unflatten(1, (k.shape[1], group))
        scores = torch.einsum("bkgqd,bkld->bkgql", mine, k.float()) * scale
        columns = torch.arange(choice.kv_len, device=q.device)
        scores.masked_fill_(columns > positions[:, None].to(q.device), -math.inf)
        weights = torch.softmax(scores, -1)
        kept = choice.kept[:, :, positions // choice.block - choice.first_block]
        inside = (columns // choice.block == kept[..., None]).any(3)
        return float((weights * inside[:, :, None]).sum(-1).mean())


def _means(x: Tensor, block: int) -> Tensor:
    """The mean of each block of positions, `(batch, heads, blocks, dim)`; the last may be short."""
    length = x.shape[2]
    whole = length - length % block
    means = x[:, :, :whole].unflatten(2, (-1, block)).mean(3)
    return torch.cat([means, x[:, :, whole:].mean(2, keepdim=True)], 2) if whole < length else means
