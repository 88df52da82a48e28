"""xxh3 of each block of bytes, as they come."""

from __future__ import annotations

import xxhash

__all__ = ["DIGITS", "BlockSums", "digest"]

DIGITS = 16  # of a sum, in hexadecimal


def digest(data: bytes | memoryview) -> str:
    """xxh3 of some bytes, 64 bits in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(data)


class BlockSums:
    """The sums of the blocks of bytes that are appended to each other.

    Args:
        block_bytes: how many bytes a block has.
        sums: of the whole blocks that came before.
        tail: the bytes after these.

    >>> sums = BlockSums(block_bytes=2)
    >>> sums.update(b"abc"); sums.hex() == digest(b"ab") + digest(b"c")
    True
    """

    def __init__(self, block_bytes: int, sums: str = "", tail: bytes = b"") -> None:
        self._block_bytes = block_bytes
        self._whole = [sums] if sums else []
        self._open = xxhash.xxh3_64(tail)
        self._in_open = len(tail)

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data).cast("B")
        while len(view):
            piece = view[: self._block_bytes - self._in_open]
            self._open.update(piece)
            self._in_open += len(piece)
            view = view[len(piece) :]
            if self._in_open == self._block_bytes:
                self._whole.append(self._open.hexdigest())
                self._open.reset()
                self._in_open = 0

    def hex(self) -> str:
        """All sums, one after the other; the last block may not be whole."""
        self._whole = ["".join(self._whole)]
        return self._whole[0] + (self._open.hexdigest() if self._in_open else "")
