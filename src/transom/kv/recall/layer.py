"""One layer that recalls old blocks from a cold store."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transom.attention.huggingface import Planner
from transom.attention.kernels.parts import Attended, attend_part, together
from transom.kv.attending import AttendingLayer, States
from transom.kv.planned import PlannedLayer, zeros
from transom.kv.recall.cold import SEGMENT, Cold, Segment, Shelf
from transom.kv.recall.frames import Frames
from transom.kv.recall.votes import (
    Poll,
    best_scores,
    elect,
    keenest,
    moments,
    representatives,
    votes,
)
from transom.kv.rounds import Rounds, Run
from transom.kv.rows import Rows
from transom.policies import Hierarchical

__all__ = ["RecallLayer"]

COLD = ("representatives", "votes", "moments")  # what cold blocks are found by
GROWTH = 64  # blocks by which these tables grow at least
FORGOTTEN = 0.7  # by which a vote counts less at each later selection
CERTAIN = 2.0  # more than any vote


class RecallLayer(AttendingLayer):
    """Keys and values of the first block, of recalled ones and of the local tokens.

    A query sees them as one text without gaps: the first block, the recalled ones in the order of
    their frames, the local tokens. So no distance exceeds the policy's capacity.

    In `tensors` are, besides keys and values: `held`, the numbers of the blocks in the frames for
    recalled ones; `queries` of the newest chunk, and the logs of the sums of the exponents of their
    scores, `local` ones and all, `sums`; of cold blocks `representatives` at no angle, the
    `moments` of these, and `votes`.

    Attributes:
        shelves: the cold blocks of each row.
    """

    slots: Rounds[Hierarchical]

    def __init__(
        self,
        index: int,
        policy: Hierarchical,
        slots: Rounds[Hierarchical],
        planner: Planner,
        last: bool,
        cold: Cold,
    ) -> None:
        super().__init__(index, slots, planner, last)
        self.policy = policy
        self.frames = Frames(policy.recalled, policy.local_blocks)
        self.cold = cold
        self.shelves: list[Shelf] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.frames.count, self.policy.block_size)
        self.tensors["keys"] = zeros(key_states, *shape, key_states.shape[3])
        self.tensors["values"] = zeros(value_states, *shape, value_states.shape[3])
        self.tensors["held"] = zeros(key_states, self.policy.recalled, dtype=torch.int64)
        self.shelves = [Shelf(self.cold) for _ in range(len(key_states))]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for name, x in self.tensors.items() if name not in COLD)

    @property
    def cold_nbytes(self) -> int:
        """Bytes of cold blocks and of what they are found by, also where a fork shares them."""
        tables = sum(self.tensors[name].nbytes for name in COLD if name in self.tensors)
        return tables + sum(shelf.nbytes for shelf in self.shelves)

    def can_crop(self, seen: int, tokens: int) -> bool:
        if self._cold(seen) < 1:
            return True
        return tokens < (seen % self.policy.chunk_size or self.policy.chunk_size)

    def recalled(self, row: int = 0) -> list[list[int]]:
        """The numbers of the blocks that each kv head of a row has recalled, ascending."""
        cold = self._cold(self.slots.lengths[row])
        if cold <= self.frames.recalled:
            return [list(range(1, cold + 1)) for _ in self.tensors["held"][row]]
        return self.tensors["held"][row].sort(-1).values.tolist()

    def _cold(self, seen: int) -> int:
        """The newest cold block once `seen` tokens are in, and before the next one is."""
        return self.frames.leaving((seen - 1) // self.policy.block_size)

    def _run(self, run: Run, states: States, scale: float) -> Tensor:
        """Rows that agree, cut where blocks end."""
        length, tokens, block = run.before, states.q.shape[2], self.policy.block_size
        outputs, start = [], 0
        while start < tokens:
            if length and length % block == 0:
                self._complete(run.rows, length // block)
            count = min(tokens - start, block - length % block)
            new = slice(start, start + count)
            mine = run._replace(before=length, back=None if run.back is None else run.back[new])
            outputs.append(self._piece(mine, States(*(x[:, :, new] for x in states)), scale))
            start, length = new.stop, length + count
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _piece(self, run: Run, states: States, scale: float) -> Tensor:
        """Tokens of one block; `(rows, heads, tokens, value_dim)`.

        They see local tokens all at once, and what is far in the chunks between selections.
        """
        rows, length, tokens = run.rows, run.before, states.q.shape[2]
        whole, inside = divmod(length, self.policy.block_size)
        used, left_out = self.frames.filling(whole) + 1, self.frames.left_out(whole)
        new = slice(inside, inside + tokens)
        q, asking = self._stored(run, states, used - 1, new)
        groups = q.shape[1] // states.k.shape[1]
        hidden = _later(new, self.policy.block_size, self.device).repeat(groups, 1)
        far = slice(self.frames.far if left_out else 0)
        near = self._attended(rows, q, slice(far.stop, used), hidden, scale)
        if left_out and self._rotary is not None and self.slots.positions == "compact":
            q = self._rotary.spin(q, self._turn(-left_out))
        chunk = self.policy.chunk_size
        before = length % chunk or min(length, chunk)  # tokens of the chunk under way
        queries, local, sums = self._remembered(rows, before, asking, near.sums)
        polls = (before + tokens - 1) // chunk
        poll = None
        if self._cold(length + 1) > self.frames.recalled and polls:
            whole_chunks = slice(polls * chunk)
            poll = self._poll(run, queries[:, :, whole_chunks], local[:, :, whole_chunks], scale)
        outputs, start = [], before
        while start < before + tokens:
            if poll is not None and start % chunk == 0:
                now, asked = length + start - before, slice(start - chunk, start)
                self._select(run, now, poll[start // chunk - 1], sums[:, :, asked])
            stop = min(before + tokens, start + chunk - start % chunk)
            part = slice(start - before, stop - before)
            seen = Attended(*(x[:, :, part] for x in near))
            if left_out:
                seen = together(seen, self._attended(rows, q[:, :, part], far, None, scale))
            sums[:, :, start:stop] = seen.sums
            outputs.append(seen.out)
            start = stop
        rest = slice(polls * chunk, None)
        for name, x in (("queries", queries), ("local", local), ("sums", sums)):
            self.tensors[name][rows, :, : x.shape[2] - rest.start] = x[:, :, rest]
        return torch.cat(outputs, dim=2).to(self.dtype)

    def _stored(self, run: Run, states: States, frame: int, places: slice) -> tuple[Tensor, Tensor]:
        """Store keys and values; gives the queries for local keys, and those that vote."""
        (q, k, v), rotary = states, self._rotary
        asking = q
        if rotary is not None:
            assert run.back is not None
            q, k = rotary.paired(q), rotary.paired(k)
            asking = rotary.spin(q, run.back * self._away)
            if self.slots.base:
                origin = self.slots.turn(self.slots.base, self.device)
                q, k = rotary.spin(q, origin), rotary.spin(k, origin)
        for name, x in (("keys", k), ("values", v)):
            self.tensors[name][run.rows, :, frame, places] = x.to(self.dtype)
        return q, asking

    def _attended(
        self, rows: slice, q: Tensor, frames: slice, hidden: Tensor | None, scale: float
    ) -> Attended:
        """What queries `(rows, heads, tokens, dim)` get of the keys in some frames."""
        keys, values = (
            self.tensors[name][rows, :, frames].flatten(2, 3) for name in ("keys", "values")
        )
        asked = q.reshape(len(q), keys.shape[1], -1, q.shape[3])  # heads of a group in a row
        out, sums = attend_part(asked, keys, values, hidden, scale)
        return Attended(out.view(*q.shape[:3], -1), sums.view(q.shape[:3]))

    def _turn(self, blocks: int) -> Tensor:
        """`(rotary_dim / 2,)` complex: by so many blocks."""
        return self.slots.turn(blocks * self.policy.block_size, self.device)

    @property
    def _away(self) -> Tensor:
        """`(rotary_dim / 2,)` complex: over as many tokens as recalled blocks are away, about."""
        return self._turn(self.frames.local + (self.frames.recalled + 1) // 2)

    def _remembered(self, rows: slice, count: int, queries: Tensor, local: Tensor) -> list[Tensor]:
        """Queries, their sums over local keys and over all, after `count` of the chunk before."""
        if "queries" not in self.tensors:
            shape = (self.batch_size, queries.shape[1], self.policy.chunk_size)
            self.tensors["queries"] = queries.new_zeros(*shape, queries.shape[3], dtype=self.dtype)
            for name in ("local", "sums"):
                self.tensors[name] = queries.new_zeros(shape, dtype=torch.float32)
        new = (queries.to(self.dtype), local, torch.empty_like(local))
        old = (self.tensors[name][rows, :, :count] for name in ("queries", "local", "sums"))
        return [torch.cat(pair, dim=2) for pair in zip(old, new, strict=True)]

    def _poll(self, run: Run, queries: Tensor, local: Tensor, scale: float) -> list[Poll]:
        """What whole chunks of queries `(rows, heads, tokens, dim)` would find, one by one."""
        known, found_by = (self.tensors[name][run.rows] for name in ("moments", "representatives"))
        chunk, kv_heads = self.policy.chunk_size, found_by.shape[1]
        queries, local = (  # `(rows, kv_heads, chunks, heads of a group and tokens, ...)`
            x.unflatten(2, (-1, chunk)).unflatten(1, (kv_heads, -1)).transpose(2, 3).flatten(3, 4)
            for x in (queries, local)
        )
        keys = self._cold(run.before + 1) * self.policy.representatives_per_block
        chosen = keenest(queries, local, known, keys, scale, chunk)
        keen = queries.gather(3, chosen[..., None].expand(*chosen.shape, queries.shape[4]))
        scores = best_scores(keen.flatten(2, 3), found_by, scale).unflatten(
            3, (-1, chosen.shape[3])
        )
        return [Poll(chosen[:, :, n], scores[:, :, :, n]) for n in range(chosen.shape[2])]

    def _complete(self, rows: slice, whole: int) -> None:
        """The newest of `whole` blocks has just been filled: one leaves for it, if it must."""
        leaving = self.frames.leaving(whole)
        if leaving >= 1:
            self._put_away(rows, leaving)
        filled, to = self.frames.filling(whole - 1), self.frames.of(whole - 1)
        if filled != to:
            for name in ("keys", "values"):
                pool = self.tensors[name][rows]
                pool[:, :, to] = pool[:, :, filled]

    def _put_away(self, rows: slice, block: int) -> None:
        """A local block becomes a cold one."""
        self._reserve(block)
        frame, place = self.frames.of(block), self._places(block)
        keys, values = (self.tensors[name][rows, :, frame] for name in ("keys", "values"))
        still = keys
        if self._rotary is not None:
            within = self.slots.turns(self.policy.block_size, self.device).conj()
            still = self._rotary.spin(keys, within * self._turn(-block))
        found_by = representatives(still, self.policy.representatives_per_block)
        self.tensors["representatives"][rows, :, :, place] = found_by
        self.tensors["moments"][rows] += moments(found_by)
        self.tensors["votes"][rows, :, place] = 0
        if block <= self.frames.recalled:
            self.tensors["held"][rows, :, block - 1] = block
        for row, k, v in zip(self._rows(rows), keys, values, strict=True):
            self.shelves[row].append(k, v)
            self.shelves[row].forget(block - self.policy.global_blocks + 1)

    def _places(self, blocks: Any) -> Any:
        """Where in the tables blocks are: a ring, in which the newest replaces the oldest."""
        return (blocks - 1) % self.policy.global_blocks

    def _reserve(self, blocks: int) -> None:
        """Have room in the tables for so many blocks."""
        policy, keys = self.policy, self.tensors["keys"]
        room = self.tensors["votes"].shape[2] if "votes" in self.tensors else 0
        if min(blocks, policy.global_blocks) <= room:
            return
        if not room:
            self.tensors["moments"] = zeros(keys, 2, keys.shape[-1], dtype=torch.float32)
        more = min(room + max(GROWTH, room // 8), policy.global_blocks)
        count, dim = policy.representatives_per_block, keys.shape[-1]
        for name, larger in (
            ("representatives", zeros(keys, count, more, dim, dtype=torch.bfloat16)),
            ("votes", zeros(keys, more, dtype=torch.bfloat16)),
        ):
            if room:
                larger.narrow(-1 if name == "votes" else -2, 0, room).copy_(self.tensors[name])
            self.tensors[name] = larger

    def _select(self, run: Run, now: int, poll: Poll, sums: Tensor) -> None:
        """Recall the cold blocks that queries before the token at `now` have looked for most.

        Args:
            poll: of the chunk before that token.
            sums: of its queries, `(rows, heads, chunk)`.
        """
        policy, newest = self.policy, self._cold(now + 1)
        used = min(newest, policy.global_blocks)
        tally, held = (self.tensors[name][run.rows] for name in ("votes", "held"))
        seen = sums.unflatten(1, (held.shape[1], -1)).flatten(2, 3).gather(2, poll.chosen)
        tally *= FORGOTTEN
        torch.maximum(tally, votes(poll.scores, seen), out=tally)
        tally = tally[:, :, :used]
        # The table's places go round: the oldest block is somewhere in it.
        recency = (torch.arange(used, device=self.device) - self._places(newest + 1)) % used
        squares = tally.float().square().sum(1, keepdim=True)
        if now in run.below:
            below = run.below[now].to(self.device)
            common = elect(below.bfloat16(), recency, policy.in_common)
            tally = tally.scatter(2, common.expand(-1, tally.shape[1], -1), CERTAIN)
            squares += below
        run.below[now] = squares
        best = elect(tally, recency, policy.recalled)
        wanted = newest - used + 1 + recency[best]
        everyone = zip(self._rows(run.rows), held.tolist(), wanted.tolist(), strict=True)
        for row, here, there in everyone:
            self._recall(row, here, there)

    def _recall(self, row: int, held: list[list[int]], wanted: list[list[int]]) -> None:
        """Put the blocks that each head wants in the frames of those that it does not."""
        moves = []
        for head, (here, there) in enumerate(zip(held, wanted, strict=True)):
            coming = sorted({*there}.difference(here))
            free = [place for place, block in enumerate(here) if block not in there]
            moves += [(head, place, block) for place, block in zip(free, coming, strict=True)]
        if not moves:
            return
        heads, places, blocks = torch.tensor(moves, device=self.device).T
        self.tensors["held"][row, heads, places] = blocks
        found = [self.shelves[row].block(block, head) for head, _, block in moves]
        keys, values = (
            torch.stack(pool).to(self.device, non_blocking=True)
            for pool in zip(*found, strict=True)
        )
        if self._rotary is not None and self.slots.positions == "compact":
            by = (1 + places - blocks) * self.policy.block_size
            keys = self._rotary.spin(keys, self._rotary.cis(by)[:, None]).to(self.dtype)
        for name, pool in (("keys", keys), ("values", values)):
            self.tensors[name][row, heads, 1 + places] = pool

    def _rows(self, rows: slice) -> range:
        return range(*rows.indices(self.batch_size))

    def fork(self, slots: Rows[Any, Any], planner: Planner) -> PlannedLayer:
        twin = super().fork(slots, planner)
        assert isinstance(twin, RecallLayer)
        twin.shelves = [shelf.fork() for shelf in self.shelves]
        return twin

    @property
    def state(self) -> dict[str, Tensor]:
        state = dict(self.tensors)
        for row, shelf in enumerate(self.shelves):
            state[f"cold.{row}"] = torch.tensor([shelf.first, shelf.stored])
            for number, segment in enumerate(shelf.segments):
                for name, pool in zip(Segment._fields, segment, strict=True):
                    state[f"cold.{row}.{number}.{name}"] = pool
        return state

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        super().restore({k: x for k, x in state.items() if not k.startswith("cold.")}, device)
        self.shelves = [Shelf(self.cold) for _ in range(self.batch_size if state else 0)]
        for row, shelf in enumerate(self.shelves):
            shelf.first, shelf.stored = state[f"cold.{row}"].tolist()
            for number in range(-(-shelf.stored // SEGMENT) - shelf.first):
                saved = [state[f"cold.{row}.{number}.{name}"] for name in Segment._fields]
                shelf.take(Segment(*saved), device)

    def reset(self) -> None:
        super().reset()
        for name in COLD:
            self.tensors.pop(name, None)
        self.shelves = [Shelf(self.cold) for _ in self.shelves]

    def take_rows(self, rows: Tensor) -> None:
        super().take_rows(rows)
        if self.shelves:
            self.shelves = [self.shelves[row].fork() for row in rows.tolist()]


def _later(new: slice, block: int, device: torch.device) -> Tensor:
    """`(tokens, block)` bool: what is after each of the new tokens of a block, or not there yet."""
    places = torch.arange(block, device=device)
    return places > places[new, None]
