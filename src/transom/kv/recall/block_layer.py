"""One layer that holds its tokens in blocks: hot ones in frames, cold ones in a store."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.errors import CacheError
from transom.kv.cache_layer import CacheLayer, zeros
from transom.kv.headwise_planner import HeadwisePlanner
from transom.kv.planner import AnyPlanner
from transom.kv.readable_layer import KeptStates
from transom.kv.recall.block_index import TABLES, BlockIndex
from transom.kv.recall.block_store import BlockStore
from transom.kv.recall.fetching import fetch
from transom.kv.recall.frames import Frames
from transom.kv.recall.placement import BlockMove
from transom.kv.recall.row_blocks import RowBlocks
from transom.kv.self_attending_layer import SelfAttendingLayer
from transom.policies import Hierarchical

__all__ = ["BlockLayer"]

COLD = "cold."  # how the names of saved cold blocks start


class BlockLayer(SelfAttendingLayer):
    """Keys and values of the first block, of recalled blocks and of the local tokens.

    They are in frames of one block each. A block that is no longer local goes to the store, and
    can be fetched from there into a frame for recalled blocks.

    Besides keys and values, `tensors` has `held`, the numbers of the blocks in the frames for
    recalled blocks, negative while the head does not want them; and the tables of a `BlockIndex`.

    Attributes:
        store: where the memory of cold blocks comes from.
        row_blocks: the cold blocks of each row.
    """

    planner: HeadwisePlanner[Hierarchical]

    def __init__(
        self,
        index: int,
        policy: Hierarchical,
        planner: HeadwisePlanner[Hierarchical],
        last: bool,
        store: BlockStore,
    ) -> None:
        super().__init__(index, planner, last)
        self.store = store
        self.row_blocks: list[RowBlocks] = []
        self.fit(policy)

    def fit(self, policy: Hierarchical) -> None:
        self.policy = policy
        self.frames = Frames(policy.recalled, policy.local_blocks)

    def _allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.frames.count, self.policy.block_size)
        self.tensors["keys"] = zeros(key_states, *shape, key_states.shape[3])
        self.tensors["values"] = zeros(value_states, *shape, value_states.shape[3])
        self.tensors["held"] = zeros(key_states, self.policy.recalled, dtype=torch.int64)
        self.row_blocks = [RowBlocks(self.store) for _ in range(len(key_states))]

    def in_use(self, name: str, seen: int | None) -> int | None:
        if name not in ("keys", "values"):
            return None
        if seen is None:
            return self.frames.count
        return self.frames.filling((seen - 1) // self.policy.block_size) + 1

    def _kept_states(self) -> KeptStates:
        raise CacheError(
            f"under {self.policy} the heads of a layer see different blocks, which fit into no "
            "tensor. Use a policy without recall to look at keys and values."
        )

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for name, x in self.tensors.items() if name not in TABLES)

    @property
    def cold_nbytes(self) -> int:
        """Bytes of cold blocks and of the tables that find them, also where a fork shares them."""
        tables = sum(self.tensors[name].nbytes for name in TABLES if name in self.tensors)
        return tables + sum(blocks.nbytes for blocks in self.row_blocks)

    def _newest_cold(self, seen: int) -> int:
        """The newest cold block after `seen` tokens, before the next one comes; below 1: none."""
        return self.frames.leaving((seen - 1) // self.policy.block_size)

    def _rotation(self, blocks: int) -> Tensor:
        """`(rotary_dim / 2,)` complex: the rotation by so many blocks."""
        return self.planner.rotation(blocks * self.policy.block_size, self.device)

    def _complete(self, rows: slice, whole: int) -> None:
        """Make room for the next block: the newest of `whole` blocks has just been filled."""
        leaving = self.frames.leaving(whole)
        if leaving >= 1:
            self._move_to_store(rows, leaving)
        filled, to = self.frames.filling(whole - 1), self.frames.of(whole - 1)
        if filled != to:
            for name in ("keys", "values"):
                pool = self.tensors[name][rows]
                pool[:, :, to] = pool[:, :, filled]

    def _move_to_store(self, rows: slice, block: int) -> None:
        """Store the oldest local block as a cold block, and index it once some must be found."""
        frame = self.frames.of(block)
        keys, values = (self.tensors[name][rows, :, frame] for name in ("keys", "values"))
        row_blocks = self.row_blocks[rows]
        for blocks, k, v in zip(row_blocks, keys, values, strict=True):
            blocks.append(k, v)
            blocks.forget(block - self.policy.global_blocks + 1)
        first = self.frames.recalled + 1  # the first block for which there is no frame
        if block < first:
            self.tensors["held"][rows, :, block - 1] = block
        elif block == first:
            unrotated = []
            for number in range(1, block + 1):
                kept = torch.stack([blocks.keys(number) for blocks in row_blocks])
                unrotated.append(self._unrotated(kept.to(self.device), number))
            self._index.begin(rows, unrotated)
        else:
            self._index.enter(rows, block, self._unrotated(keys, block))

    def _unrotated(self, keys: Tensor, block: int) -> Tensor:
        """The unrotated (pre-RoPE) keys of a block, `(rows, kv_heads, block, dim)`."""
        if self._rotary is None:
            return keys
        within = self.planner.rotations(self.policy.block_size, self.device).conj()
        return self._rotary.rotate_paired(keys, within * self._rotation(-block))

    @property
    def _index(self) -> BlockIndex:
        return BlockIndex(self.policy, self.tensors)

    def _fetch(self, rows: slice, moves: list[BlockMove]) -> list[Tensor]:
        """Keys, rotated to their frames, and values of cold blocks, `(moves, block, dim)` each."""
        if not moves:
            pools = (self.tensors[name] for name in ("keys", "values"))
            return [pool.new_empty(0, *pool.shape[3:]) for pool in pools]
        keys, values = fetch(self.row_blocks[rows], moves, self.device)
        if self._rotary is not None and self.planner.positions == "compact":
            by = torch.tensor([1 + move.place - move.block for move in moves], device="cpu")
            rotations = self._rotary.cis(by * self.policy.block_size).to(self.device)
            keys = self._rotary.rotate_paired(keys, rotations[:, None])
        return [keys.to(self.dtype), values.to(self.dtype)]

    def fork(self, planner: AnyPlanner) -> CacheLayer:
        twin = super().fork(planner)
        assert isinstance(twin, BlockLayer)
        twin.row_blocks = [blocks.fork() for blocks in self.row_blocks]
        return twin

    @property
    def state(self) -> dict[str, Tensor]:
        self.store.check()
        state = super().state
        for row, blocks in enumerate(self.row_blocks):
            state |= blocks.state(f"{COLD}{row}")
        return state

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        super().restore({k: x for k, x in state.items() if not k.startswith(COLD)}, device)
        self.row_blocks = [
            RowBlocks.restored(self.store, state, f"{COLD}{row}", device)
            for row in range(self.batch_size if state else 0)
        ]

    def clear(self) -> None:
        super().clear()
        for name in TABLES:
            self.tensors.pop(name, None)
        self.row_blocks = [RowBlocks(self.store) for _ in self.row_blocks]

    def take_rows(self, rows: Tensor) -> None:
        super().take_rows(rows)
        if self.row_blocks:
            self.row_blocks = [self.row_blocks[row].fork() for row in rows.tolist()]
