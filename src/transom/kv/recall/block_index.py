"""The index of cold blocks: the keys they are found by, and the votes of each head for them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from transom.attention.score_rule import ScoreRule
from transom.kv.cache_layer import zeros
from transom.kv.recall.scoring import (
    AT_LEAST,
    HOPEFUL,
    IN_COMMON,
    basis,
    elect,
    had,
    hopes,
    moments,
    representatives,
    shares,
)
from transom.policies import Hierarchical

__all__ = ["TABLES", "BlockIndex"]

TABLES = ("found_by", "votes", "moments", "basis")
GROWTH = 64  # blocks; tables grow by at least as many
FORGOTTEN = 0.7  # the factor by which a vote counts less at each later selection
CERTAIN = 2.0  # higher than any vote


class BlockIndex:
    """Tables of cold blocks, kept among the tensors of a layer.

    These are `found_by`, `(batch, kv_heads, representatives, directions, blocks)`, the keys that
    each block is found by, projected on the directions of `basis`; the `moments` of all these keys;
    and the `votes` for each block so far. The tables do not exist before there are more cold blocks
    than can be recalled at the same time.

    Args:
        policy: with `global_` in tokens.
        tensors: of the layer, each `(batch, kv_heads, ...)`; the tables are added to them.
    """

    def __init__(self, policy: Hierarchical, tensors: dict[str, Tensor]) -> None:
        self.policy = policy
        self.tensors = tensors

    def begin(self, rows: slice, blocks: list[Tensor]) -> None:
        """Enter all cold blocks from 1 on: unrotated keys `(rows, kv_heads, block, dim)` each."""
        count = self.policy.representatives_per_block
        blocks = [representatives(keys.float(), count) for keys in blocks]
        if "basis" not in self.tensors:
            like, dim = self.tensors["keys"], blocks[0].shape[3]
            self.tensors["moments"] = zeros(like, 1 + dim, dim, dtype=torch.float32)
            self.tensors["basis"] = zeros(like, dim, max(1, dim // 2), dtype=torch.float32)
        directions = self.tensors["basis"][rows]
        directions.copy_(basis(moments(torch.cat(blocks, dim=2)), directions.shape[3]))
        self.tensors["moments"][rows] = 0
        for number, keys in enumerate(blocks, start=1):
            self._enter(rows, number, keys)

    def enter(self, rows: slice, block: int, keys: Tensor) -> None:
        """Enter the next cold block: unrotated keys, `(rows, kv_heads, block, dim)`."""
        self._enter(
            rows, block, representatives(keys.float(), self.policy.representatives_per_block)
        )

    def _enter(self, rows: slice, block: int, found_by: Tensor) -> None:
        self._reserve(block)
        place = self._place(block)
        self.tensors["found_by"][rows, ..., place] = found_by @ self.tensors["basis"][rows]
        self.tensors["moments"][rows] += moments(found_by)
        self.tensors["votes"][rows, :, place] = 0

    def _place(self, block: int) -> int:
        """The place of a block in the tables: a ring, where the newest replaces the oldest."""
        return (block - 1) % self.policy.global_blocks

    def _reserve(self, blocks: int) -> None:
        """Make room in the tables for `blocks` blocks."""
        policy, keys = self.policy, self.tensors["keys"]
        room = self.tensors["votes"].shape[2] if "votes" in self.tensors else 0
        if min(blocks, policy.global_blocks) <= room:
            return
        more = min(room + max(GROWTH, room // 8), policy.global_blocks)
        shape = (policy.representatives_per_block, self.tensors["basis"].shape[3], more)
        for name, larger in (
            ("found_by", zeros(keys, *shape, dtype=torch.float32)),
            ("votes", zeros(keys, more, dtype=torch.float32)),
        ):
            if room:
                larger[..., :room] = self.tensors[name]
            self.tensors[name] = larger

    def polled(
        self, rows: slice, newest: int, leaves: bool, queries: Tensor, sums: Tensor, rule: ScoreRule
    ) -> Tensor:
        """The votes of each chunk: the most that any key of a block would get from any query.

        Because the maximum counts, one query that looks for a block is not outvoted by many that do
        not. A query that sees what it looks for has little attention left for other keys, so it
        asks for nothing. Queries that cannot be expected to find anything do not vote.

        Queries of the first chunk may have seen the newest block while it was local. Then the
        attention that they `had` for it counts too.

        Args:
            rows: of the batch.
            newest: of the cold blocks.
            leaves: whether the newest was local for the queries of the first chunk.
            queries: of whole chunks, `(rows, heads, tokens, dim)`, rotated by the mean distance of
                recalled blocks.
            sums: `(rows, heads, tokens)` float32, for each query the log of the sum of the
                exponentials of its scores with the keys that it sees whatever is recalled.
            rule: how products become scores.

        Returns:
            `(chunks, rows, kv_heads, blocks)` float32, by the places of the blocks.
        """
        names = ("found_by", "basis", "moments")
        found_by, directions, known = (self.tensors[name][rows] for name in names)
        used, chunk = min(newest, self.policy.global_blocks), self.policy.chunk_size
        kv_heads, chunks = found_by.shape[1], queries.shape[2] // chunk
        queries, sums = (  # chunk by chunk, `(rows, kv_heads, chunks * heads of a group * chunk)`
            x.unflatten(2, (-1, chunk)).unflatten(1, (kv_heads, -1)).transpose(2, 3).flatten(2, 4)
            for x in (queries, sums)
        )
        each = queries.shape[2] // chunks
        keys = newest * self.policy.representatives_per_block
        hopeful = (hopes(queries, sums, known, keys, rule) > HOPEFUL).cpu()
        votes = sums.new_zeros(chunks, *found_by.shape[:2], used)
        for row, head in itertools.product(*map(range, found_by.shape[:2])):
            asking = hopeful[row, head].nonzero()[:, 0]
            if not len(asking):
                continue
            theirs = asking.to(queries.device)
            asked = queries[row, head, theirs].float() @ directions[row, head]
            found = shares(asked, sums[row, head, theirs], found_by[row, head, ..., :used], rule)
            counts = (asking // each).bincount(minlength=chunks).tolist()
            for number, part in enumerate(found.split(counts)):
                if len(part):
                    votes[number, row, head] = part.amax(0)
        if leaves:
            place = self._place(newest)
            first = queries[:, :, :each].float() @ directions
            got = had(first, sums[:, :, :each], found_by[..., place], rule)
            votes[0, ..., place] = torch.maximum(votes[0, ..., place], got)
        return votes

    def wanted(
        self, rows: slice, newest: int, votes: Tensor, below: Tensor | None
    ) -> tuple[list[list[list[list[int]]]], Tensor]:
        """The numbers of the blocks that each head wants after each of several chunks.

        A head wants a block that got enough of its votes: those of this chunk, or those of earlier
        chunks, which count less with each selection. It also wants a block for which the heads of
        the layers below have voted enough together. Changes the table of votes.

        Args:
            rows: of the batch.
            newest: of the cold blocks.
            votes: what `polled` returned.
            below: the sums that this returned in the layer below; None in the first layer.

        Returns:
            Lists `[chunk][row][kv_head]` of numbers; and for the layer above the sums of squared
            votes so far, `(chunks, rows, 1, blocks)` float32.
        """
        used, policy = votes.shape[3], self.policy
        kept = self.tensors["votes"][rows, :, :used]
        tallies: list[Tensor] = []
        for vote in votes.bfloat16().float():
            tallies.append(torch.maximum(vote, (tallies[-1] if tallies else kept) * FORGOTTEN))
        kept.copy_(tallies[-1])
        tally = torch.stack(tallies)
        # The table is a ring: the oldest block can be anywhere in it.
        places = torch.arange(used, device=votes.device)
        recency = (places - self._place(newest + 1)) % used
        squares = tally.square().sum(2, keepdim=True)
        if below is not None:
            squares += below
            if policy.in_common:
                common = elect(below, recency, policy.in_common)
                sought = below.gather(3, common) >= IN_COMMON
                common = common.expand(-1, -1, tally.shape[2], -1)
                certain = torch.where(sought, CERTAIN, tally.gather(3, common))
                tally = tally.scatter(3, common, certain)
        best = elect(tally, recency, policy.recalled)
        numbers = torch.where(
            tally.gather(3, best) >= AT_LEAST, newest - used + 1 + recency[best], 0
        )
        return [
            [[[number for number in head if number] for head in row] for row in chunk]
            for chunk in numbers.tolist()
        ], squares
