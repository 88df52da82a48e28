"""One layer whose heads keep the tokens that score highest."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from transom.attention.kernels.masked import masked
from transom.kv.bounded_layer import fewest
from transom.kv.cache_layer import CacheLayer, zeros
from transom.kv.headwise_planner import RowGroup
from transom.kv.planner import PassPlanner
from transom.kv.quantization import Codes
from transom.kv.scored import choose, queries
from transom.kv.scored.planner import ScoredPlanner
from transom.kv.scored.pool import PoolPart, SlotMove
from transom.kv.scored.states import states
from transom.kv.self_attending import AttentionInputs, SelfAttendingLayer, causal
from transom.policies import Kept, Precision, Scored

__all__ = ["ScoredLayer"]

SCRATCH = 2**24  # attention weights computed together, numbers


class ScoredLayer(SelfAttendingLayer):
    """Keys and values of at most `policy.size` tokens per head, chosen by the policy's scores.

    Tokens are in the order of the text, so that a token's slot is its compact position. Keys are
    stored at no angle, and turned to that position when they are read: so none is ever turned
    twice, and all tokens before the newest keep together however many have left between them.

    Attributes:
        policy: of this layer.
        extra: for each row and head, by how many tokens more than equal heads it holds.
    """

    planner: ScoredPlanner

    def __init__(self, index: int, policy: Scored, planner: ScoredPlanner, last: bool) -> None:
        super().__init__(index, planner, last)
        self.extra: list[list[int]] = []
        self.fit(policy)

    def fit(self, policy: Scored) -> None:
        """Keep what another policy of the same kind says; only before the first token."""
        self.policy = policy
        self.precision = Precision.of(policy)
        self._keys, self._values = states(self.precision)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        size = self.policy.tokens
        self.tensors |= self._keys.allocate(key_states, size)
        self.tensors |= self._values.allocate(value_states, size)
        self.tensors["positions"] = zeros(key_states, size, dtype=torch.int32)
        if self.policy.watches != 0:
            self.tensors["received"] = zeros(key_states, size, dtype=torch.float32)
        self.extra = [[0] * key_states.shape[1] for _ in range(len(key_states))]

    def in_use(self, name: str, seen: int | None) -> int | None:
        if name in ("keys", "values", "positions", "received"):
            return fewest(seen, self.policy.tokens)
        if self.precision is None or name.startswith("queries."):
            return None
        exact, part = self.precision.exact, name.partition(".")[2]
        if part in Codes._fields:
            return fewest(
                None if seen is None else max(0, seen - exact), self.policy.tokens - exact
            )
        few = {"newest": exact, "first": self.precision.first}
        return fewest(seen, few[part]) if part in few else None

    def _run(self, run: RowGroup, states: AttentionInputs, scale: float) -> Tensor:
        """Rows that agree, without padding, cut where heads are full and where watching begins."""
        policy, length, tokens = self.policy, run.before, states.q.shape[2]
        if policy.expects and "queries.sum" not in self.tensors:
            heads, dim = states.q.shape[1], states.q.shape[3]
            self.tensors |= queries.allocate(self.batch_size, heads, dim, states.q.device)
        outputs, start = [], 0
        while start < tokens:
            held = policy.filled(length)
            if held == policy.tokens:
                self._evict(run.rows, length, scale)
                held -= policy.round
            count, watched = self._stretch(held, tokens - start, states.q.shape[:2].numel())
            new = slice(start, start + count)
            back = None if run.back is None else run.back[new]
            block = AttentionInputs(*(x[:, :, new] for x in states))
            outputs.append(self._block(run.rows, back, held, length, block, scale, watched))
            start, length = new.stop, length + count
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _stretch(self, held: int, tokens: int, heads: int) -> tuple[int, bool]:
        """How many tokens to take at once, and whether the policy watches their queries."""
        policy = self.policy
        count = min(tokens, policy.tokens - held)
        if policy.watched == 0:
            return count, False
        unwatched = 0 if policy.watched is None else policy.tokens - policy.watched - held
        if unwatched > 0:
            return min(count, unwatched), False
        return min(count, max(1, SCRATCH // (heads * policy.tokens))), True

    def _block(
        self,
        rows: slice,
        back: Tensor | None,
        held: int,
        length: int,
        states: AttentionInputs,
        scale: float,
        watched: bool,
    ) -> Tensor:
        """Tokens that fit in, where heads hold `held` on average; `(rows, heads, tokens, dim)`."""
        q, k, v = states
        rotary, dtype, group = self._rotary, q.dtype, q.shape[1] // k.shape[1]
        compact = self.planner.positions == "compact"
        if rotary is not None:
            assert back is not None
            q, k = rotary.paired(q), rotary.paired(k)
            if compact:
                k = rotary.rotate_paired(k, back).to(dtype)
        if self.policy.expects:
            still = q if rotary is None or back is None else rotary.rotate_paired(q, back)
            sinks = max(0, self.policy.sinks - length)
            queries.add(self.tensors, rows, still[:, :, sinks:].detach().float())
        outputs = []
        for part, local in self._parts(rows):
            at = held + part.extra
            stop = at + q.shape[2]
            mine = local.heads(q, group)
            self.own()  # what earlier tokens of the pass saw stays as it was for their gradients
            keys, values = self._write(part, at, length, local.heads(k), local.heads(v))
            if rotary is not None and compact:
                assert back is not None
                rotations = self.planner.rotations(stop, self.device)
                keys = rotary.rotate_paired(keys, rotations)
                mine = rotary.rotate_paired(mine, back * rotations[at:]).to(dtype)
            keys, values = keys.to(dtype), values.to(dtype)
            if watched:
                out, weights = weighed(mine, keys, values, scale)
                part.slots(self.tensors["received"])[:, :, :stop] += weights.detach()
            else:
                out = masked(mine, keys, values, causal(mine, keys), scale)
            outputs.append(out)
        if len(outputs) == 1:
            return outputs[0]
        heads = torch.cat(outputs)  # a row's heads, then the next row's
        return heads.view(len(q), -1, *heads.shape[2:])

    def _write(
        self, part: PoolPart, at: int, length: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens; give all that their queries see, the new ones exactly as they are."""
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
        if "received" in self.tensors:
            part.slots(self.tensors["received"])[:, :, new] = 0
        return seen[0], seen[1]

    def _evict(self, rows: slice, length: int, scale: float) -> None:
        """Keep what scores highest, in rows that have seen `length` tokens and are full."""
        policy = self.policy
        keep = policy.tokens - policy.round
        self.own()
        parts = [part for part, _ in self._parts(rows)]
        scores = [self._scores(part, length, scale) for part in parts]
        if policy.heads == "equal":
            move = SlotMove([choose.equal(scores[0], keep)], parts, parts)
        else:
            heads = len(self.extra[0])
            kept = []
            for first in range(0, len(parts), heads):
                row = parts[first].rows.start
                chosen = choose.adaptive([x.flatten() for x in scores[first : first + heads]], keep)
                self.extra[row] = [len(stays) - keep for stays in chosen]
                kept += [stays[None, None] for stays in chosen]
            move = SlotMove(kept, parts, [part for part, _ in self._parts(rows)])
        self._keys.move(self.tensors, move)
        self._values.move(self.tensors, move)
        move.apply(self.tensors["positions"])
        if "received" in self.tensors:
            if policy.remembers:
                move.apply(self.tensors["received"])
            else:
                self.tensors["received"][rows] = 0

    def _scores(self, part: PoolPart, length: int, scale: float) -> Tensor:
        """`(rows, heads, slots)` float32 of a full part; only those that must stay are infinite."""
        policy, lowest = self.policy, torch.finfo(torch.float32).min
        with torch.no_grad():
            scores: Tensor = policy.score(self.look(part, length, scale)).float()
            scores = scores.nan_to_num(lowest)  # infinities become finite, and it is a copy
        scores[..., : policy.sinks] = torch.inf
        scores[..., scores.shape[-1] - policy.newest :] = torch.inf
        return scores

    def look(self, part: PoolPart, length: int, scale: float) -> Kept:
        """What a part holds once its rows have seen `length` tokens."""
        policy, rotary = self.policy, self._rotary
        held = policy.filled(length) + part.extra
        keys = self._keys.read(self.tensors, part, held).float()
        compact = self.planner.positions == "compact"
        if rotary is not None and compact:
            keys = rotary.rotate_paired(keys, self.planner.rotations(held, self.device))
        positions = part.slots(self.tensors["positions"])[:, :, :held].long()
        received = self.tensors.get("received")
        coming = None
        if policy.expects:
            first = torch.tensor(held if compact else length - self.planner.base, device="cpu")
            coming = queries.coming(
                {name: x[part.rows] for name, x in self.tensors.items() if "queries." in name},
                len(self.extra[0]),
                length - policy.sinks,
                rotary,
                None if rotary is None else rotary.cis(first) * self.planner.ahead,
            )
            if part.head is not None:
                coming = type(coming)(*(x[:, part.head, None] for x in coming))
        return Kept(
            keys=keys,
            values=self._values.read(self.tensors, part, held).float(),
            received=torch.zeros_like(positions, dtype=torch.float32)
            if received is None
            else part.slots(received)[:, :, :held],
            positions=positions,
            watched=policy.watched,
            scale=scale,
            coming=coming,
        )

    def kept_positions(self, row: int = 0) -> list[Tensor]:
        """Which tokens of a row each kv head holds now: their positions, ascending, int64."""
        length = self.planner.lengths[row]
        heads = len(self.extra[row])
        found = []
        for part, _ in self._parts(slice(row, row + 1)):
            held = self.policy.filled(length) + part.extra
            positions = part.slots(self.tensors["positions"])[0, :, :held].long()
            found += list(positions)
        assert len(found) == heads
        return found

    def _parts(self, rows: slice) -> list[tuple[PoolPart, PoolPart]]:
        """Where rows are in the storage, and the same among those rows alone."""
        if self.policy.heads == "equal":
            return [(PoolPart(rows), PoolPart(slice(None)))]
        parts = []
        for place, row in enumerate(range(*rows.indices(len(self.extra)))):
            before = 0
            for head, extra in enumerate(self.extra[row]):
                part = PoolPart(slice(row, row + 1), head, before, extra)
                parts.append((part, PoolPart(slice(place, place + 1), head)))
                before += extra
        return parts

    def can_crop(self, seen: int, tokens: int) -> bool:
        """Whether the newest `tokens` of `seen` left no trace in what is kept of the others."""
        policy = self.policy
        if policy.watches is None or policy.expects:
            return False
        if self.precision is not None and seen > self.precision.exact:
            return False
        held = policy.filled(seen)
        if policy.watched and held > policy.tokens - policy.watched:
            return False
        return seen <= policy.tokens or tokens < held - (policy.tokens - policy.round)

    def fork(self, planner: PassPlanner[Any, Any]) -> CacheLayer:
        twin = super().fork(planner)
        assert isinstance(twin, ScoredLayer)
        twin.extra = copy.deepcopy(self.extra)
        return twin

    @property
    def state(self) -> dict[str, Tensor]:
        extra = torch.tensor(self.extra, dtype=torch.int64, device="cpu")
        return {**super().state, "extra": extra} if self.is_initialized else {}

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        tensors = {name: tensor for name, tensor in state.items() if name != "extra"}
        super().restore(tensors, device)
        self.extra = state["extra"].tolist() if state else []

    def reset(self) -> None:
        super().reset()
        self.extra = [[0] * len(row) for row in self.extra]

    def take_rows(self, rows: Tensor) -> None:
        super().take_rows(rows)
        self.extra = [list(self.extra[row]) for row in rows.tolist()] if self.extra else []


def weighed(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of the newest queries, and what each key received of it.

    Returns:
        The output, `(rows, heads, q_len, value_dim)`; and `(rows, kv_heads, kv_len)` float32, the
        weights summed over queries and over the heads of a group.
    """
    rows, heads, count, dim = q.shape
    kv_heads, stop = k.shape[1:3]
    group = heads // kv_heads
    scores = q.reshape(rows, kv_heads, group * count, dim) @ k.transpose(2, 3) * scale
    scores = scores.float().view(rows, kv_heads, group, count, stop)
    if count > 1:
        later = torch.ones(count, count, dtype=torch.bool, device=q.device).triu(1)
        scores[..., stop - count :].masked_fill_(later, -torch.inf)
    weights = scores.softmax(-1)
    out = weights.flatten(2, 3).to(v.dtype) @ v
    return out.view(rows, heads, count, -1), weights.sum((2, 3))
