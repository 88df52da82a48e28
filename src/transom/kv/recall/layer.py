"""One layer that recalls old blocks from a cold store."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.kernels.parts import Attended, attend_part, together, with_sink
from transom.attention.score_rule import ScoreRule
from transom.kv.gradients import without_gradient
from transom.kv.headwise_planner import RowGroup
from transom.kv.recall.attention import attended_by_stage, bias_of_held, bias_of_later
from transom.kv.recall.block_layer import BlockLayer
from transom.kv.recall.fetching import store_fetched
from transom.kv.recall.placement import BlockMove, Held, Stages, exchanges
from transom.kv.recall.recent_queries import ASKING, RecentQueries
from transom.kv.self_attending_layer import AttentionInputs

__all__ = ["RecallLayer"]

NO_GRADIENT = (
    "recalls blocks, through which no gradient flows. Leave recall out, or train under "
    "use_pattern and a policy by position; for inference use torch.no_grad()."
)


class RecallLayer(BlockLayer):
    """A layer whose heads recall the cold blocks that they look for.

    A query sees the first block, the recalled blocks that its kv head wants, and the local tokens.
    It sees them at the positions of one text without gaps: the first block, the recalled blocks in
    the order of their frames, the local tokens. So no distance exceeds the policy's capacity.

    Besides what a `BlockLayer` holds, `tensors` has the tensors of `RecentQueries`.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            states = super().update(key_states, value_states)
        self.dtype = self.tensors["keys"].dtype
        return states

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule) -> Tensor:
        with torch.no_grad():
            out = super().attend(q, k, v, rule).to(q.dtype)
        return without_gradient(out, q, k, v, why=f"{self.policy} {NO_GRADIENT}")

    def can_crop(self, seen: int, tokens: int) -> bool:
        if self._newest_cold(seen) < 1:
            return True
        return tokens < (seen % self.policy.chunk_size or self.policy.chunk_size)

    def recalled(self, row: int = 0) -> list[list[int]]:
        """The numbers of the recalled blocks that each kv head of a row sees, ascending."""
        cold = self._newest_cold(self.planner.lengths[row])
        if cold <= self.frames.recalled:
            return [list(range(1, cold + 1)) for _ in self.tensors["held"][row]]
        return [sorted(b for b in held if b > 0) for held in self.tensors["held"][row].tolist()]

    def _attend_group(self, group: RowGroup, inputs: AttentionInputs, rule: ScoreRule) -> Tensor:
        """Handle the new tokens in pieces, cut where blocks end."""
        self.store.check()
        length, tokens, block = group.before, inputs.q.shape[2], self.policy.block_size
        outputs, start = [], 0
        while start < tokens:
            if length and length % block == 0:
                self._complete(group.rows, length // block)
            count = min(tokens - start, block - length % block)
            new = slice(start, start + count)
            piece = group._replace(
                before=length, unrotate=None if group.unrotate is None else group.unrotate[new]
            )
            states = AttentionInputs(*(x[:, :, new] for x in inputs))
            outputs.append(self._attend_piece(piece, states, rule))
            start, length = new.stop, length + count
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _attend_piece(self, piece: RowGroup, inputs: AttentionInputs, rule: ScoreRule) -> Tensor:
        """Attention of tokens of one block, `(rows, heads, tokens, value_dim)`.

        The votes of a query do not depend on what is recalled. So all selections among these
        tokens come first; then each query attends to the recalled blocks that it may see.
        """
        rows, length, tokens = piece.rows, piece.before, inputs.q.shape[2]
        block, groups = self.policy.block_size, inputs.q.shape[1] // inputs.k.shape[1]
        whole, inside = divmod(length, block)
        used, left_out = self.frames.filling(whole) + 1, self.frames.left_out(whole)
        q, asking = self._store_inputs(piece, inputs, used - 1, slice(inside, inside + tokens))
        local = slice(self.frames.far if left_out else 0, used)
        keys, places = (used - local.start) * block, range(inside, inside + tokens)
        later = bias_of_later(places, keys, groups, block, self.dtype, self.device)
        near = self._attend_frames(rows, q, local, later, rule)
        near = with_sink(near, rule.sink_logits)  # as one more key that every query sees
        chunk = self.policy.chunk_size
        before = length % chunk or min(length, chunk)  # tokens of the chunk under way
        recent = RecentQueries(self.tensors, chunk)
        if ASKING not in self.tensors:
            recent.allocate(self.batch_size, asking, self.dtype)
        if not left_out:
            recent.add(rows, before, asking, near.sums)
            return near.out.to(self.dtype)
        if self._rotary is not None and self.planner.positions == "compact":
            q = self._rotary.rotate_paired(q, self._rotation(-left_out))
        base = together(near, self._attend_frames(rows, q, slice(1), None, rule))
        queries, sums = recent.add(rows, before, asking, base.sums)
        held: Held = self.tensors["held"][rows].tolist()
        selections = (before + tokens - 1) // chunk
        if not selections:
            far = self._attend_far(rows, q, held, rule)
            return (base if far is None else together(near, far)).out.to(self.dtype)
        asked = slice(selections * chunk)
        after, moves = self._select(piece, held, queries[:, :, asked], sums[:, :, asked], rule)
        fetched = self._fetch(rows, moves)
        stages = torch.arange(before, before + tokens, device="cpu") // chunk
        pools = [self.tensors[name][rows] for name in ("keys", "values")]
        out = attended_by_stage(q, pools, fetched, after, moves, stages, near, base.out, rule)
        # Only now, when all queries have seen what was in the frames before.
        now = [[states[-1] for states in heads] for heads in after]
        self.tensors["held"][rows] = torch.tensor(now, device=self.device)
        store_fetched(pools, moves, fetched)
        return out.to(self.dtype)

    def _store_inputs(
        self, piece: RowGroup, inputs: AttentionInputs, frame: int, places: slice
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values; return the queries for local keys, and the queries that vote."""
        (q, k, v), rotary = inputs, self._rotary
        asking = q
        if rotary is not None:
            assert piece.unrotate is not None
            q, k = rotary.paired(q), rotary.paired(k)
            asking = rotary.rotate_paired(q, piece.unrotate * self._rotation_to_recalled)
            if self.planner.base:
                origin = self.planner.rotation(self.planner.base, self.device)
                q, k = rotary.rotate_paired(q, origin), rotary.rotate_paired(k, origin)
        for name, x in (("keys", k), ("values", v)):
            self.tensors[name][piece.rows, :, frame, places] = x.to(self.dtype)
        return q, asking

    def _attend_frames(
        self, rows: slice, q: Tensor, frames: slice, bias: Tensor | None, rule: ScoreRule
    ) -> Attended:
        """Attention of queries `(rows, heads, tokens, dim)` to the keys in some frames.

        `bias` is as for `attend_part`.
        """
        keys, values = (self.tensors[name][rows, :, frames] for name in ("keys", "values"))
        asked = q.reshape(len(q), keys.shape[1], -1, q.shape[3])  # heads of a group in a row
        out, sums = attend_part(asked, keys.flatten(2, 3), values.flatten(2, 3), bias, rule)
        return Attended(out.reshape(*q.shape[:3], -1), sums.reshape(q.shape[:3]))

    def _attend_far(self, rows: slice, q: Tensor, held: Held, rule: ScoreRule) -> Attended | None:
        """Attention to the first and the recalled blocks; None if no head sees a recalled one."""
        bias = bias_of_held(held, self.policy.block_size, self.dtype)
        if bias is None:
            return None
        return self._attend_frames(rows, q, slice(self.frames.far), bias.to(self.device), rule)

    @property
    def _rotation_to_recalled(self) -> Tensor:
        """`(rotary_dim / 2,)` complex: the rotation over the mean distance of recalled blocks."""
        return self._rotation(self.frames.local + (self.frames.recalled + 1) // 2)

    def _select(
        self, piece: RowGroup, held: Held, queries: Tensor, sums: Tensor, rule: ScoreRule
    ) -> tuple[list[list[Stages]], list[BlockMove]]:
        """Which cold blocks are fetched, and into which frames, after each of several chunks.

        A wanted block takes the frame of an unwanted one. Unwanted blocks stay in their frames,
        unseen, until then; so few blocks are moved in most texts.

        Args:
            piece: of a group, with the tokens seen before it.
            held: what is in the frames.
            queries: of these chunks.
            sums: of these queries.
            rule: how scores become weights.

        Returns:
            As `exchanges` does.
        """
        newest = self._newest_cold(piece.before + 1)
        cold = range(max(0, newest - self.policy.global_blocks) + 1, newest + 1)
        leaves = piece.before % self.policy.block_size == 0
        votes = self._index.polled(piece.rows, newest, leaves, queries, sums, rule)
        below = piece.votes_below.get(piece.before)
        if below is not None:
            below = below.to(self.device)
        wanted, squares = self._index.wanted(piece.rows, newest, votes, below)
        piece.votes_below[piece.before] = squares
        return exchanges(held, wanted, cold)
