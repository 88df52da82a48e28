"""Which frame each hot block of a row is in, as a formula of how many blocks are full."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Frames"]


@dataclass(frozen=True)
class Frames:
    """The frames of a layer's storage, each of which holds one block.

    The first block stays in the first frame. Then come the frames for recalled blocks, those for
    local blocks, which are a ring, and the frame of the block that is being filled. While there
    are frames for all blocks, block `i` is in frame `i`: the frames in use are then a stretch from
    the start.

    Attributes:
        recalled: frames for recalled blocks, 1 to `recalled`.
        local: frames for full local blocks.
    """

    recalled: int
    local: int

    @property
    def count(self) -> int:
        """All frames."""
        return self.recalled + self.local + 2

    @property
    def far(self) -> int:
        """The frames of the first block and of recalled blocks: all before the local ones."""
        return self.recalled + 1

    def of(self, block: int) -> int:
        """The frame of a full block for as long as it is local."""
        return block if block < self.far else self.far + (block - self.far) % self.local

    def filling(self, whole: int) -> int:
        """The frame of the block that is being filled when `whole` blocks are full."""
        return min(whole, self.count - 1)

    def leaving(self, whole: int) -> int:
        """The newest block that is no longer local when `whole` are full; below 1 for none."""
        return whole - 1 - self.local

    def left_out(self, whole: int) -> int:
        """How many blocks of the text are in no frame when `whole` are full."""
        return whole - self.filling(whole)
