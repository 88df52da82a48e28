"""One layer that recalls old blocks from a cold store."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transom.attention.kernels.parts import Attended, attend_part, together
from transom.kv.cache_layer import CacheLayer, zeros
from transom.kv.gradients import without_gradient
from transom.kv.headwise_planner import HeadwisePlanner, RowGroup
from transom.kv.planner import PassPlanner
from transom.kv.recall.attention import attended_by_stage, bias_of_held, bias_of_later
from transom.kv.recall.block_store import SEGMENT, BlockSegment, BlockStore, RowBlocks
from transom.kv.recall.frames import Frames
from transom.kv.recall.index import TABLES, BlockIndex
from transom.kv.recall.placement import BlockMove, Held, Stages, exchanges
from transom.kv.self_attending import AttentionInputs, SelfAttendingLayer
from transom.policies import Hierarchical

__all__ = ["RecallLayer"]

NO_GRADIENT = (
    "recalls blocks, through which no gradient flows. Leave recall out, or train under "
    "use_pattern and a policy by position; for inference use torch.no_grad()."
)


class RecallLayer(SelfAttendingLayer):
    """Keys and values of the first block, of recalled ones and of the local tokens.

    A query sees the first block, those of the recalled ones that its kv head wants, and the local
    tokens. Where they are is where they would be in one text without gaps: the first block, the
    recalled ones in the order of their frames, the local tokens. So no distance exceeds the
    policy's capacity.

    In `tensors` are, besides keys and values: `held`, the numbers of the blocks in the frames for
    recalled ones, negative while nobody wants them; `queries` of the newest chunk, turned as far
    as blocks are away when recalled, and `sums`, the logs of the sums of the exponents of their
    scores with what they see whatever is recalled; and the tables of an `BlockIndex`.

    Attributes:
        shelves: the cold blocks of each row.
    """

    planner: HeadwisePlanner[Hierarchical]

    def __init__(
        self,
        index: int,
        policy: Hierarchical,
        planner: HeadwisePlanner[Hierarchical],
        last: bool,
        cold: BlockStore,
    ) -> None:
        super().__init__(index, planner, last)
        self.cold = cold
        self.shelves: list[RowBlocks] = []
        self.fit(policy)

    def fit(self, policy: Hierarchical) -> None:
        """Keep what another policy of the same kind says; only before the first token."""
        self.policy = policy
        self.frames = Frames(policy.recalled, policy.local_blocks)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.frames.count, self.policy.block_size)
        self.tensors["keys"] = zeros(key_states, *shape, key_states.shape[3])
        self.tensors["values"] = zeros(value_states, *shape, value_states.shape[3])
        self.tensors["held"] = zeros(key_states, self.policy.recalled, dtype=torch.int64)
        self.shelves = [RowBlocks(self.cold) for _ in range(len(key_states))]

    def in_use(self, name: str, seen: int | None) -> int | None:
        if name not in ("keys", "values"):
            return None
        if seen is None:
            return self.frames.count
        return self.frames.filling((seen - 1) // self.policy.block_size) + 1

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for name, x in self.tensors.items() if name not in TABLES)

    @property
    def cold_nbytes(self) -> int:
        """Bytes of cold blocks and of what they are found by, also where a fork shares them."""
        tables = sum(self.tensors[name].nbytes for name in TABLES if name in self.tensors)
        return tables + sum(shelf.nbytes for shelf in self.shelves)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            super().update(key_states, value_states)
        self.dtype = self.tensors["keys"].dtype
        return key_states, value_states

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        with torch.no_grad():
            out = super().attend(q, k, v, scale).to(q.dtype)
        return without_gradient(out, q, k, v, why=f"{self.policy} {NO_GRADIENT}")

    def can_crop(self, seen: int, tokens: int) -> bool:
        if self._cold(seen) < 1:
            return True
        return tokens < (seen % self.policy.chunk_size or self.policy.chunk_size)

    def recalled(self, row: int = 0) -> list[list[int]]:
        """The numbers of the blocks that each kv head of a row sees recalled, ascending."""
        cold = self._cold(self.planner.lengths[row])
        if cold <= self.frames.recalled:
            return [list(range(1, cold + 1)) for _ in self.tensors["held"][row]]
        return [sorted(b for b in held if b > 0) for held in self.tensors["held"][row].tolist()]

    def _cold(self, seen: int) -> int:
        """The newest cold block once `seen` tokens are in, and before the next one is."""
        return self.frames.leaving((seen - 1) // self.policy.block_size)

    def _run(self, run: RowGroup, states: AttentionInputs, scale: float) -> Tensor:
        """Rows that agree, cut where blocks end."""
        self.cold.check()
        length, tokens, block = run.before, states.q.shape[2], self.policy.block_size
        outputs, start = [], 0
        while start < tokens:
            if length and length % block == 0:
                self._complete(run.rows, length // block)
            count = min(tokens - start, block - length % block)
            new = slice(start, start + count)
            mine = run._replace(before=length, back=None if run.back is None else run.back[new])
            outputs.append(
                self._piece(mine, AttentionInputs(*(x[:, :, new] for x in states)), scale)
            )
            start, length = new.stop, length + count
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _piece(self, run: RowGroup, states: AttentionInputs, scale: float) -> Tensor:
        """Tokens of one block; `(rows, heads, tokens, value_dim)`.

        What they vote with depends on nothing that is recalled. So all selections among them come
        first, and then they see what is recalled all at once, each what it may.
        """
        rows, length, tokens = run.rows, run.before, states.q.shape[2]
        block, groups = self.policy.block_size, states.q.shape[1] // states.k.shape[1]
        whole, inside = divmod(length, block)
        used, left_out = self.frames.filling(whole) + 1, self.frames.left_out(whole)
        new = slice(inside, inside + tokens)
        q, asking = self._stored(run, states, used - 1, new)
        local = slice(self.frames.far if left_out else 0, used)
        keys, places = (used - local.start) * block, range(inside, inside + tokens)
        later = bias_of_later(places, keys, groups, block, self.dtype, self.device)
        near = self._attended(rows, q, local, later, scale)
        chunk = self.policy.chunk_size
        before = length % chunk or min(length, chunk)  # tokens of the chunk under way
        if not left_out:
            self._remember(rows, before, asking, near.sums)
            return near.out.to(self.dtype)
        if self._rotary is not None and self.planner.positions == "compact":
            q = self._rotary.rotate_paired(q, self._rotation(-left_out))
        base = together(near, self._attended(rows, q, slice(1), None, scale))
        queries, sums = self._remember(rows, before, asking, base.sums)
        held: Held = self.tensors["held"][rows].tolist()
        selections = (before + tokens - 1) // chunk
        if not selections:
            far = self._far(rows, q, held, scale)
            return (base if far is None else together(near, far)).out.to(self.dtype)
        asked = slice(selections * chunk)
        after, moves = self._select(run, held, queries[:, :, asked], sums[:, :, asked], scale)
        fetched = self._fetched(rows, moves)
        stages = torch.arange(before, before + tokens, device="cpu") // chunk
        pools = [self.tensors[name][rows] for name in ("keys", "values")]
        out = attended_by_stage(q, pools, fetched, after, moves, stages, near, base.out, scale)
        self._receive(rows, after, moves, fetched)
        return out.to(self.dtype)

    def _stored(
        self, run: RowGroup, states: AttentionInputs, frame: int, places: slice
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values; gives the queries for local keys, and those that vote."""
        (q, k, v), rotary = states, self._rotary
        asking = q
        if rotary is not None:
            assert run.back is not None
            q, k = rotary.paired(q), rotary.paired(k)
            asking = rotary.rotate_paired(q, run.back * self._away)
            if self.planner.base:
                origin = self.planner.rotation(self.planner.base, self.device)
                q, k = rotary.rotate_paired(q, origin), rotary.rotate_paired(k, origin)
        for name, x in (("keys", k), ("values", v)):
            self.tensors[name][run.rows, :, frame, places] = x.to(self.dtype)
        return q, asking

    def _attended(
        self, rows: slice, q: Tensor, frames: slice, bias: Tensor | None, scale: float
    ) -> Attended:
        """What queries `(rows, heads, tokens, dim)` get of the keys in some frames."""
        keys, values = (self.tensors[name][rows, :, frames] for name in ("keys", "values"))
        return _part(q, keys, values, bias, scale)

    def _rotation(self, blocks: int) -> Tensor:
        """`(rotary_dim / 2,)` complex: by so many blocks."""
        return self.planner.rotation(blocks * self.policy.block_size, self.device)

    @property
    def _away(self) -> Tensor:
        """`(rotary_dim / 2,)` complex: over as many tokens as recalled blocks are away, about."""
        return self._rotation(self.frames.local + (self.frames.recalled + 1) // 2)

    def _remember(
        self, rows: slice, before: int, asking: Tensor, sums: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The queries of the chunk under way, so many before, with their sums; the newest stay."""
        chunk = self.policy.chunk_size
        if "queries" not in self.tensors:
            shape = (self.batch_size, asking.shape[1], chunk)
            self.tensors["queries"] = asking.new_zeros(*shape, asking.shape[3], dtype=self.dtype)
            self.tensors["sums"] = asking.new_zeros(shape, dtype=torch.float32)
        both = []
        for name, new in (("queries", asking.to(self.dtype)), ("sums", sums)):
            kept = self.tensors[name][rows]
            all_of = torch.cat((kept[:, :, :before], new), dim=2)
            rest = (all_of.shape[2] - 1) // chunk * chunk
            kept[:, :, : all_of.shape[2] - rest] = all_of[:, :, rest:]
            both.append(all_of)
        return both[0], both[1]

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
        frame = self.frames.of(block)
        keys, values = (self.tensors[name][rows, :, frame] for name in ("keys", "values"))
        for row, k, v in zip(self._rows(rows), keys, values, strict=True):
            self.shelves[row].append(k, v)
            self.shelves[row].forget(block - self.policy.global_blocks + 1)
        first = self.frames.recalled + 1  # the first that needs to be found
        if block < first:
            self.tensors["held"][rows, :, block - 1] = block
        elif block == first:
            still = []
            for number in range(1, block + 1):
                kept = [self.shelves[row].keys(number) for row in self._rows(rows)]
                still.append(self._unrotated(torch.stack(kept).to(self.device), number))
            self._index.begin(rows, still)
        else:
            self._index.enter(rows, block, self._unrotated(keys, block))

    def _unrotated(self, keys: Tensor, block: int) -> Tensor:
        """Keys of a block `(rows, kv_heads, block, dim)` at no angle."""
        if self._rotary is None:
            return keys
        within = self.planner.rotations(self.policy.block_size, self.device).conj()
        return self._rotary.rotate_paired(keys, within * self._rotation(-block))

    @property
    def _index(self) -> BlockIndex:
        return BlockIndex(self.policy, self.tensors)

    def _select(
        self, run: RowGroup, held: Held, queries: Tensor, sums: Tensor, scale: float
    ) -> tuple[list[list[Stages]], list[BlockMove]]:
        """Which cold blocks come, and which frames they take, after each of several chunks.

        A block that is wanted takes the frame of one that is not; those that nobody wants stay
        where they are, unseen. So little is moved in most texts.

        Args:
            held: what is in the frames.
            queries: of these chunks, with their `sums`.

        Returns:
            As `exchanges` does.
        """
        newest = self._cold(run.before + 1)
        cold = range(max(0, newest - self.policy.global_blocks) + 1, newest + 1)
        leaves = run.before % self.policy.block_size == 0
        votes = self._index.polled(run.rows, newest, leaves, queries, sums, scale)
        below = run.below.get(run.before)
        if below is not None:
            below = below.to(self.device)
        wanted, run.below[run.before] = self._index.wanted(run.rows, newest, votes, below)
        return exchanges(held, wanted, cold)

    def _far(self, rows: slice, q: Tensor, held: Held, scale: float) -> Attended | None:
        """What queries get of the first block and of those recalled; None if nobody sees any."""
        bias = bias_of_held(held, self.policy.block_size, self.dtype)
        if bias is None:
            return None
        return self._attended(rows, q, slice(self.frames.far), bias.to(self.device), scale)

    def _fetched(self, rows: slice, moves: list[BlockMove]) -> list[Tensor]:
        """Keys, turned to their frames, and values of cold blocks, `(moves, block, dim)` each."""
        pools = [self.tensors[name] for name in ("keys", "values")]
        if not moves:
            return [pool.new_empty(0, *pool.shape[3:]) for pool in pools]
        shelves = self.shelves[rows]
        found = [shelves[move.row].block(move.block, move.head) for move in moves]
        keys, values = (
            torch.stack(pool).to(self.device, non_blocking=True)
            for pool in zip(*found, strict=True)
        )
        if self._rotary is not None and self.planner.positions == "compact":
            by = torch.tensor([1 + move.place - move.block for move in moves], device="cpu")
            rotations = self._rotary.cis(by * self.policy.block_size).to(self.device)
            keys = self._rotary.rotate_paired(keys, rotations[:, None])
        return [keys.to(self.dtype), values.to(self.dtype)]

    def _receive(
        self, rows: slice, states: list[list[Stages]], moves: list[BlockMove], fetched: list[Tensor]
    ) -> None:
        """Put what comes into its frames, now that all have seen what was there before."""
        now = [[after[-1] for after in heads] for heads in states]
        self.tensors["held"][rows] = torch.tensor(now, device=self.device)
        if not moves:
            return
        # Of several that come into a frame the last one stays.
        last = {(move.row, move.head, move.place): number for number, move in enumerate(moves)}
        row, head, place = torch.tensor([*last], device="cpu").T
        stay = torch.tensor([*last.values()], device="cpu")
        for name, blocks in zip(("keys", "values"), fetched, strict=True):
            self.tensors[name][rows][row, head, 1 + place] = blocks[stay]

    def _rows(self, rows: slice) -> range:
        return range(*rows.indices(self.batch_size))

    def fork(self, planner: PassPlanner[Any, Any]) -> CacheLayer:
        twin = super().fork(planner)
        assert isinstance(twin, RecallLayer)
        twin.shelves = [shelf.fork() for shelf in self.shelves]
        return twin

    @property
    def state(self) -> dict[str, Tensor]:
        self.cold.check()
        state = super().state
        for row, shelf in enumerate(self.shelves):
            state[f"cold.{row}"] = torch.tensor([shelf.first, shelf.stored], device="cpu")
            for number, segment in enumerate(shelf.segments):
                blocks = shelf.stored - (shelf.first + number) * SEGMENT
                for name, pool in zip(BlockSegment._fields, segment, strict=True):
                    state[f"cold.{row}.{number}.{name}"] = pool[:, :blocks]
        return state

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        super().restore({k: x for k, x in state.items() if not k.startswith("cold.")}, device)
        self.shelves = [RowBlocks(self.cold) for _ in range(self.batch_size if state else 0)]
        for row, shelf in enumerate(self.shelves):
            shelf.first, shelf.stored = state[f"cold.{row}"].tolist()
            for number in range(-(-shelf.stored // SEGMENT) - shelf.first):
                saved = [state[f"cold.{row}.{number}.{name}"] for name in BlockSegment._fields]
                shelf.take(BlockSegment(*saved), device)

    def reset(self) -> None:
        super().reset()
        for name in TABLES:
            self.tensors.pop(name, None)
        self.shelves = [RowBlocks(self.cold) for _ in self.shelves]

    def take_rows(self, rows: Tensor) -> None:
        super().take_rows(rows)
        if self.shelves:
            self.shelves = [self.shelves[row].fork() for row in rows.tolist()]


def _part(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Attended:
    """What queries `(rows, heads, tokens, dim)` get of blocks `(rows, kv_heads, n, block, dim)`.

    `bias` is as for `attend_part`.
    """
    asked = q.reshape(len(q), keys.shape[1], -1, q.shape[3])  # heads of a group in a row
    out, sums = attend_part(asked, keys.flatten(2, 3), values.flatten(2, 3), bias, scale)
    return Attended(out.reshape(*q.shape[:3], -1), sums.reshape(q.shape[:3]))
