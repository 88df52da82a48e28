"""Where the hot blocks of a row are: closed forms of how many blocks are whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Frames"]


@dataclass(frozen=True)
class Frames:
    """The places for blocks in a layer's storage, and which block is where.

    The first block has the first frame for ever; then come the recalled blocks, the local ones,
    which go round a ring, and the block that is being filled. While there are frames for all,
    block `i` is in frame `i`, so that what is in use is always one stretch from the start.

    Attributes:
        recalled: frames for recalled blocks, 1 to `recalled`.
        local: frames for whole local blocks.
    """

    recalled: int
    local: int

    @property
    def count(self) -> int:
        """All of them."""
        return self.recalled + self.local + 2

    def of(self, block: int) -> int:
        """The frame of a whole block for as long as it is local."""
        first = self.recalled + 1
        return block if block < first else first + (block - first) % self.local

    def filling(self, whole: int) -> int:
        """The frame of the block that is being filled when so many are whole."""
        return min(whole, self.count - 1)

    def leaving(self, whole: int) -> int:
        """The newest block that is no longer local; below 1 when none has left."""
        return whole - 1 - self.local

    def blocks(self, whole: int) -> Tensor:
        """`(filling + 1,)` int64: the block in each frame, unless others have been recalled."""
        used = self.filling(whole) + 1
        blocks = torch.arange(used)
        if used == self.count:
            first = self.recalled + 1
            local = torch.arange(whole - self.local, whole)
            blocks[first + (local - first) % self.local] = local
            blocks[-1] = whole
        return blocks

    def ranks(self, whole: int) -> Tensor:
        """`(filling + 1,)` int64: which place each frame's block has among them, in order."""
        blocks = self.blocks(whole)
        passed_over = whole + 1 - len(blocks)
        return blocks - passed_over * (blocks >= whole - self.local)
