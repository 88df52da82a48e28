"""One layer that recalls old blocks from a cold store."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from transom.attention.huggingface import Planner
from transom.attention.kernels.framed import framed
from transom.kv.attending import AttendingLayer, States
from transom.kv.planned import PlannedLayer, zeros
from transom.kv.recall.cold import SEGMENT, Cold, Segment, Shelf
from transom.kv.recall.frames import Frames
from transom.kv.recall.votes import elect, representatives, votes
from transom.kv.rounds import Rounds, Run
from transom.kv.rows import Rows
from transom.policies import Hierarchical

__all__ = ["RecallLayer"]

GROWING = ("representatives", "votes")
GROWTH = 64  # blocks by which these tables grow
FORGOTTEN = 0.5  # by which a vote counts less at each later selection


class RecallLayer(AttendingLayer):
    """Keys and values of the first block, of recalled ones and of the local tokens.

    A query sees them as one text without gaps: the first block, the recalled ones in their order,
    the local tokens. So no distance exceeds the policy's capacity. Keys are stored at the angles
    of their places within their block, and queries are turned for each block.

    In `tensors` are, besides keys and values: `held`, the numbers of the blocks in the frames for
    recalled ones; `queries` and `sums` of the chunk under way; and for each cold block its
    `representatives`, at no angle, and its `votes`.

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
        return sum(x.nbytes for name, x in self.tensors.items() if name not in GROWING)

    @property
    def cold_nbytes(self) -> int:
        """Bytes of all that grows with the text, also where a fork shares them."""
        tables = sum(self.tensors[name].nbytes for name in GROWING if name in self.tensors)
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
        """Rows that agree, cut where blocks are selected; chunks end where blocks do."""
        length, tokens, step = run.before, states.q.shape[2], self.policy.chunk_size
        outputs, start = [], 0
        while start < tokens:
            if length and length % step == 0:
                self._between(run.rows, length, scale)
            count = min(tokens - start, step - length % step)
            new = slice(start, start + count)
            back = None if run.back is None else run.back[start]
            outputs.append(
                self._chunk(run.rows, back, length, States(*(x[:, :, new] for x in states)), scale)
            )
            start, length = new.stop, length + count
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _chunk(
        self, rows: slice, back: Tensor | None, length: int, states: States, scale: float
    ) -> Tensor:
        """Tokens between two selections; `(rows, heads, tokens, value_dim)`."""
        q, k, v = states
        whole, inside = divmod(length, self.policy.block_size)
        used = self.frames.filling(whole) + 1
        new = slice(inside, inside + q.shape[2])
        rotary, far = self._rotary, q
        if rotary is not None:
            assert back is not None
            within = self._within
            origin = back * within[inside]
            q, k = (rotary.spin(rotary.paired(x), origin) for x in (q, k))
            far = rotary.spin(q, within[new].conj() * self._away)
        for name, x in (("keys", k), ("values", v)):
            self.tensors[name][rows, :, used - 1, new] = x.to(self.dtype)
        asked = q.reshape(len(q), k.shape[1], 1, -1, q.shape[3])  # heads of a group in a row
        if rotary is not None:
            turns = self._turns(rows, whole)
            asked = rotary.spin(asked, turns[:, :, :, None])
        keys, values = (self.tensors[name][rows, :, :used] for name in ("keys", "values"))
        hidden = _later(new, self.policy.block_size, self.device)
        out, sums = framed(asked, keys, values, hidden.repeat(q.shape[1] // k.shape[1], 1), scale)
        self._remember(rows, length, far, sums.view(q.shape[:3]))
        return out.view(*q.shape[:3], -1)

    def _turns(self, rows: slice, whole: int) -> Tensor:
        """How far each frame's block is behind the one that is being filled.

        Returns:
            `(rows or 1, kv_heads or 1, frames, rotary_dim / 2)` complex.
        """
        frames, compact = self.frames, self.slots.positions == "compact"
        places = (frames.ranks(whole) if compact else frames.blocks(whole))[None, None]
        if frames.leaving(whole) > frames.recalled:
            held = self.tensors["held"][rows].cpu()
            places = places.expand(*held.shape[:2], -1).clone()
            order = 1 + held.argsort(-1).argsort(-1)
            places[:, :, 1 : frames.recalled + 1] = order if compact else held
        behind = places[..., -1:] - places
        if compact:
            return self._steps[behind.to(self.device)]
        assert self.slots.rotary is not None
        return self.slots.rotary.cis(behind * self.policy.block_size).to(self.device)

    @cached_property
    def _within(self) -> Tensor:
        """`(block, rotary_dim / 2)` complex: from the start of a block to each place in it."""
        return self.slots.turns(self.policy.block_size, self.device)

    @cached_property
    def _steps(self) -> Tensor:
        """`(frames, rotary_dim / 2)` complex: over whole blocks."""
        assert self.slots.rotary is not None
        blocks = torch.arange(self.frames.count) * self.policy.block_size
        return self.slots.rotary.cis(blocks).to(self.device)

    @cached_property
    def _away(self) -> Tensor:
        """`(rotary_dim / 2,)` complex: over as many tokens as recalled blocks are away, about."""
        return self._steps[self.frames.local + (self.frames.recalled + 1) // 2]

    def _remember(self, rows: slice, length: int, queries: Tensor, sums: Tensor) -> None:
        """Keep what is needed of queries at the next selection."""
        if "queries" not in self.tensors:
            shape = (self.batch_size, queries.shape[1], self.policy.chunk_size)
            self.tensors["queries"] = queries.new_zeros(*shape, queries.shape[3], dtype=self.dtype)
            self.tensors["sums"] = queries.new_zeros(shape, dtype=torch.float32)
        at = length % self.policy.chunk_size
        new = slice(at, at + queries.shape[2])
        self.tensors["queries"][rows, :, new] = queries.to(self.dtype)
        self.tensors["sums"][rows, :, new] = sums

    def _between(self, rows: slice, length: int, scale: float) -> None:
        """What happens between two chunks, after `length` tokens."""
        whole, inside = divmod(length, self.policy.block_size)
        if inside == 0:
            self._complete(rows, whole)
        leaving = self.frames.leaving(whole)
        if leaving > self.frames.recalled:
            self._select(rows, leaving, scale)

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
            still = self._rotary.spin(keys, self._within.conj()).to(keys.dtype)
        found_by = representatives(still, self.policy.representatives_per_block)
        self.tensors["representatives"][rows, :, place] = found_by
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
        more = min(room + GROWTH, policy.global_blocks)
        count, dim = policy.representatives_per_block, keys.shape[-1]
        for name, larger in (
            ("representatives", zeros(keys, more, count, dim)),
            ("votes", zeros(keys, more, dtype=torch.bfloat16)),
        ):
            if room:
                larger[:, :, :room] = self.tensors[name]
            self.tensors[name] = larger

    def _select(self, rows: slice, newest: int, scale: float) -> None:
        """Recall the cold blocks, up to the `newest`, that queries have looked for most."""
        used = min(newest, self.policy.global_blocks)
        tally, found_by = (
            self.tensors[name][rows, :, :used] for name in ("votes", "representatives")
        )
        tally *= FORGOTTEN
        queries, sums = (self.tensors[name][rows] for name in ("queries", "sums"))
        torch.maximum(tally, votes(queries, sums, found_by, scale), out=tally)
        # The table's places go round: the oldest block is somewhere in it.
        recency = (torch.arange(used, device=self.device) - self._places(newest + 1)) % used
        best = elect(tally, recency, self.frames.recalled)
        chosen = (newest - used + 1 + recency[best]).tolist()
        for row, wanted in zip(self._rows(rows), chosen, strict=True):
            held = self.tensors["held"][row].tolist()
            for head, (here, there) in enumerate(zip(held, wanted, strict=True)):
                self._recall(row, head, here, there)

    def _recall(self, row: int, head: int, held: list[int], wanted: list[int]) -> None:
        """Put the blocks that are wanted in the frames of those that are not."""
        coming = sorted({*wanted}.difference(held))
        free = [place for place, block in enumerate(held) if block not in wanted]
        for place, block in zip(free, coming, strict=True):
            for name, pool in zip(("keys", "values"), self.shelves[row].block(block), strict=True):
                self.tensors[name][row, head, 1 + place].copy_(pool[head], non_blocking=True)
            self.tensors["held"][row, head, place] = block

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
        for name in GROWING:
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
