"""Where the hot blocks of a row are: closed forms of how many blocks are whole."""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def far(self) -> int:
        """Those that do not move on with the text: of the first block and of the recalled ones."""
        return self.recalled + 1

    def of(self, block: int) -> int:
        """The frame of a whole block for as long as it is local."""
        return block if block < self.far else self.far + (block - self.far) % self.local

    def filling(self, whole: int) -> int:
        """The frame of the block that is being filled when so many are whole."""
        return min(whole, self.count - 1)

    def leaving(self, whole: int) -> int:
        """The newest block that is no longer local; below 1 when none has left."""
        return whole - 1 - self.local

    def left_out(self, whole: int) -> int:
        """How many blocks of the text are in no frame."""
        return whole - self.filling(whole)
