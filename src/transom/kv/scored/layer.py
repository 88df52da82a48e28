"""One layer whose heads keep the tokens that score highest."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.score_rule import ScoreRule
from transom.kv.headwise_planner import RowGroup
from transom.kv.scored.pool import PoolPart, SlotMove
from transom.kv.scored.pool_layer import RECEIVED, PoolLayer
from transom.kv.scored.query_statistics import add_queries, allocate_sums, future_queries
from transom.kv.scored.selection import select_adaptively, select_equally
from transom.kv.scored.watched_attention import attend_and_weigh, attend_causally
from transom.kv.self_attending_layer import AttentionInputs
from transom.policies import FutureQueries, Kept

__all__ = ["ScoredLayer"]

SCRATCH = 2**24  # attention weights that are in memory at the same time


class ScoredLayer(PoolLayer):
    """Attends to at most `policy.size` tokens per head, and evicts those that score lowest.

    Keys are rotated to the positions of their slots when they are read. So no key is ever rotated
    twice, and the distances to the tokens that stay close up when others are evicted.
    """

    def _attend_group(self, group: RowGroup, inputs: AttentionInputs, rule: ScoreRule) -> Tensor:
        """Handle the new tokens in pieces, cut where heads are full and where watching begins."""
        policy, length, tokens = self.policy, group.before, inputs.q.shape[2]
        if policy.expects and "queries.sum" not in self.tensors:
            heads, dim = inputs.q.shape[1], inputs.q.shape[3]
            self.tensors |= allocate_sums(self.batch_size, heads, dim, inputs.q.device)
        outputs, start = [], 0
        while start < tokens:
            held = policy.filled(length)
            if held == policy.tokens:
                self._evict(group.rows, length, rule.scale)
                held -= policy.round
            count, watched = self._next_piece(held, tokens - start, inputs.q.shape[:2].numel())
            new = slice(start, start + count)
            piece = group._replace(
                before=length, unrotate=None if group.unrotate is None else group.unrotate[new]
            )
            states = AttentionInputs(*(x[:, :, new] for x in inputs))
            outputs.append(self._attend_piece(piece, held, states, rule, watched))
            start, length = new.stop, length + count
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _next_piece(self, held: int, tokens: int, heads: int) -> tuple[int, bool]:
        """How many tokens to take at once, and whether the policy watches their queries."""
        policy = self.policy
        count = min(tokens, policy.tokens - held)
        if policy.watched == 0:
            return count, False
        unwatched = 0 if policy.watched is None else policy.tokens - policy.watched - held
        if unwatched > 0:
            return min(count, unwatched), False
        return min(count, max(1, SCRATCH // (heads * policy.tokens))), True

    def _attend_piece(
        self, piece: RowGroup, held: int, inputs: AttentionInputs, rule: ScoreRule, watched: bool
    ) -> Tensor:
        """Attention of tokens that fit into the slots, `(rows, heads, tokens, value_dim)`.

        Args:
            piece: of a group, with the tokens seen before it.
            held: how many tokens the average head holds.
            inputs: of these tokens.
            rule: how scores become weights.
            watched: whether to add up the attention that each token receives.
        """
        q, k, v = inputs
        rotary, unrotate, dtype = self._rotary, piece.unrotate, q.dtype
        group = q.shape[1] // k.shape[1]
        compact = self.planner.positions == "compact"
        if rotary is not None:
            assert unrotate is not None
            q, k = rotary.paired(q), rotary.paired(k)
            if compact:
                k = rotary.rotate_paired(k, unrotate).to(dtype)
        if self.policy.expects:
            unrotated = q
            if rotary is not None and unrotate is not None:
                unrotated = rotary.rotate_paired(q, unrotate)
            sinks = max(0, self.policy.sinks - piece.before)
            unrotated = unrotated[:, :, sinks:].detach().float()
            add_queries(self.tensors, piece.rows, unrotated)
        outputs = []
        for part, local in self.budgets.parts(piece.rows):
            at = held + part.extra
            stop = at + q.shape[2]
            mine = local.heads(q, group)
            own_rule = rule.of_heads(local.query_heads(group))
            self.own()  # gradients need unchanged what earlier tokens of the pass saw
            keys, values = self._write(part, at, piece.before, local.heads(k), local.heads(v))
            if rotary is not None and compact:
                assert unrotate is not None
                rotations = self.planner.rotations(stop, self.device)
                keys = rotary.rotate_paired(keys, rotations)
                mine = rotary.rotate_paired(mine, unrotate * rotations[at:]).to(dtype)
            keys, values = keys.to(dtype), values.to(dtype)
            if watched:
                out, weights = attend_and_weigh(mine, keys, values, own_rule)
                part.slots(self.tensors[RECEIVED])[:, :, :stop] += weights.detach()
            else:
                out = attend_causally(mine, keys, values, own_rule)
            outputs.append(out)
        if len(outputs) == 1:
            return outputs[0]
        heads = torch.cat(outputs)  # a row's heads, then the next row's
        return heads.view(len(q), -1, *heads.shape[2:])

    def _write(
        self, part: PoolPart, at: int, length: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens; return all that their queries see, the new tokens unquantized."""
        new = slice(at, at + k.shape[2])
        seen = []
        for kind, x in ((self._keys, k), (self._values, v)):
            if self.precision is None:
                kind.write(self.tensors, part, at, x)
                seen.append(kind.read(self.tensors, part, new.stop))
            else:
                seen.append(torch.cat((kind.read(self.tensors, part, at), x), dim=2))
                kind.write(self.tensors, part, at, x)
        places = torch.arange(length, length + k.shape[2], device=k.device)
        part.slots(self.tensors["positions"])[:, :, new] = places.int()
        if RECEIVED in self.tensors:
            part.slots(self.tensors[RECEIVED])[:, :, new] = 0
        return seen[0], seen[1]

    def _evict(self, rows: slice, length: int, scale: float) -> None:
        """Keep the best tokens of full rows that have seen `length` tokens."""
        policy = self.policy
        keep = policy.tokens - policy.round
        self.own()
        parts = [part for part, _ in self.budgets.parts(rows)]
        scores = [self._scores(part, length, scale) for part in parts]
        if policy.heads == "equal":
            move = SlotMove([select_equally(scores[0], keep)], parts, parts)
        else:
            heads = self.budgets.heads
            kept = []
            for first in range(0, len(parts), heads):
                mine = [x.flatten() for x in scores[first : first + heads]]
                chosen = select_adaptively(mine, keep)
                row = parts[first].rows.start
                self.budgets.share_out(row, [len(stays) - keep for stays in chosen])
                kept += [stays[None, None] for stays in chosen]
            move = SlotMove(kept, parts, [part for part, _ in self.budgets.parts(rows)])
        self._keys.move(self.tensors, move)
        self._values.move(self.tensors, move)
        move.apply(self.tensors["positions"])
        if RECEIVED in self.tensors:
            if policy.remembers:
                move.apply(self.tensors[RECEIVED])
            else:
                self.tensors[RECEIVED][rows] = 0

    def _scores(self, part: PoolPart, length: int, scale: float) -> Tensor:
        """`(rows, heads, slots)` float32 of a full part; infinite only where a token must stay."""
        policy, lowest = self.policy, torch.finfo(torch.float32).min
        with torch.no_grad():
            scores: Tensor = policy.score(self.kept_of(part, length, scale)).float()
            scores = scores.nan_to_num(lowest)  # infinities become finite, and it is a copy
        scores[..., : policy.sinks] = torch.inf
        scores[..., scores.shape[-1] - policy.newest :] = torch.inf
        return scores

    def kept_of(self, part: PoolPart, length: int, scale: float) -> Kept:
        """What the policy scores: all that a part holds once its rows have seen `length` tokens."""
        policy, rotary = self.policy, self._rotary
        held = policy.filled(length) + part.extra
        keys = self._keys.read(self.tensors, part, held).float()
        compact = self.planner.positions == "compact"
        if rotary is not None and compact:
            keys = rotary.rotate_paired(keys, self.planner.rotations(held, self.device))
        positions = part.slots(self.tensors["positions"])[:, :, :held].long()
        received = self.tensors.get(RECEIVED)
        ahead = None
        if policy.expects:
            first = torch.tensor(held if compact else length - self.planner.base, device="cpu")
            ahead = future_queries(
                {name: x[part.rows] for name, x in self.tensors.items() if "queries." in name},
                self.budgets.heads,
                length - policy.sinks,
                rotary,
                None if rotary is None else rotary.cis(first) * self.planner.mean_rotation_ahead,
            )
            if part.head is not None:
                ahead = FutureQueries(*(x[:, part.head, None] for x in ahead))
        return Kept(
            keys=keys,
            values=self._values.read(self.tensors, part, held).float(),
            attention_received=torch.zeros_like(positions, dtype=torch.float32)
            if received is None
            else part.slots(received)[:, :, :held],
            positions=positions,
            watched=policy.watched,
            scale=scale,
            future_queries=ahead,
        )

    def can_crop(self, seen: int, tokens: int) -> bool:
        policy = self.policy
        if policy.watches is None or policy.expects:
            return False
        if self.precision is not None and seen > self.precision.exact:
            return False
        held = policy.filled(seen)
        if policy.watched and held > policy.tokens - policy.watched:
            return False
        return seen <= policy.tokens or tokens < held - (policy.tokens - policy.round)
