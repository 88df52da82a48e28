"""The blocks of one row in one layer that have left the cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transom.attention.modes import lasting
from transom.kv.recall.block_store import SEGMENT, BlockSegment, BlockStore

__all__ = ["RowBlocks"]


class RowBlocks:
    """The cold blocks of one row in one layer, in the order of the text.

    Forks share the segments. Whoever adds a block to a shared segment copies the segment first.

    Attributes:
        store: where segments come from.
        segments: the segments held, the oldest first.
        first: the number of the oldest segment held, from 0.
        stored: the number of the newest block stored. Blocks are numbered from 1; 0 for none.
    """

    def __init__(self, store: BlockStore) -> None:
        self.store = store
        self.segments: deque[BlockSegment] = deque()
        self.first = 0
        self.stored = 0
        self._shared = False

    @property
    def nbytes(self) -> int:
        return sum(segment.nbytes for segment in self.segments)

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"segments": list(self.segments)}

    @lasting
    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"segments": deque(), "_shared": False})
        for segment in state["segments"]:
            self._take(segment, torch.device("cpu"))

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Store the next block, `(kv_heads, block, dim)` each."""
        place = self.stored % SEGMENT
        if place == 0:
            segment = self.store.segment(keys, values, keys.dtype, keys.is_cuda)
            self.segments.append(segment)
        elif self._shared or self.segments[-1].keys.dtype != keys.dtype:
            copied = self._copied(self.segments[-1], keys.is_cuda, keys.dtype)
            self.segments[-1] = copied
        self._shared = False
        for pool, block in zip(self.segments[-1], (keys, values), strict=True):
            pool[:, place] = block.to(pool.device)
        self.stored += 1

    def block(self, number: int, head: int) -> tuple[Tensor, Tensor]:
        """Keys and values `(block, dim)` of one head in a block that is held; views."""
        (keys, values), place = self._at(number)
        return keys[head, place], values[head, place]

    def keys(self, number: int) -> Tensor:
        """Keys `(kv_heads, block, dim)` of a block that is held; a view."""
        segment, place = self._at(number)
        return segment.keys[:, place]

    def _at(self, number: int) -> tuple[BlockSegment, int]:
        """The segment of a block, and the block's place in it."""
        segment, place = divmod(number - 1, SEGMENT)
        return self.segments[segment - self.first], place

    def _take(self, saved: BlockSegment, device: torch.device) -> None:
        """Add a copy of a saved segment; the counts stay as they are."""
        self.segments.append(self._copied(saved, device.type == "cuda", saved.keys.dtype))

    def _copied(self, segment: BlockSegment, pinned: bool, dtype: torch.dtype) -> BlockSegment:
        mine = self.store.segment(segment.keys[:, 0], segment.values[:, 0], dtype, pinned)
        for own, pool in zip(mine, segment, strict=True):
            own[:, : pool.shape[1]].copy_(pool)
        return mine

    def forget(self, before: int) -> None:
        """Forget the segments all of whose blocks have lower numbers than `before`."""
        while self.segments and (self.first + 1) * SEGMENT < before:
            self.segments.popleft()
            self.first += 1

    def fork(self) -> RowBlocks:
        """The same blocks for another context; segments are shared."""
        twin = RowBlocks(self.store)
        twin.segments, twin.first, twin.stored = deque(self.segments), self.first, self.stored
        self._shared = twin._shared = True
        return twin

    def state(self, name: str) -> dict[str, Tensor]:
        """Everything for a file, as tensors whose names start with `name`; not copied."""
        state = {name: torch.tensor([self.first, self.stored], device="cpu")}
        for number, segment in enumerate(self.segments):
            blocks = self.stored - (self.first + number) * SEGMENT
            for part, pool in zip(BlockSegment._fields, segment, strict=True):
                state[f"{name}.{number}.{part}"] = pool[:, :blocks]
        return state

    @classmethod
    def restored(
        cls, store: BlockStore, state: Mapping[str, Tensor], name: str, device: torch.device
    ) -> RowBlocks:
        """The blocks that gave this `state` under the same `name`; copied into the store."""
        blocks = cls(store)
        blocks.first, blocks.stored = state[name].tolist()
        for number in range(-(-blocks.stored // SEGMENT) - blocks.first):
            saved = [state[f"{name}.{number}.{part}"] for part in BlockSegment._fields]
            blocks._take(BlockSegment(*saved), device)
        return blocks
