"""Checksums (xxh3) of the blocks of a stream of bytes."""

from __future__ import annotations

import xxhash

__all__ = ["DIGITS", "BlockSums", "digest"]

DIGITS = 16  # of a checksum, in hexadecimal


def digest(data: bytes | memoryview) -> str:
    """The xxh3 of some bytes, 64 bits in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(data)


class BlockSums:
    """Checksums of the blocks of bytes that are appended.

    Args:
        block_bytes: bytes per block.
        sums: checksums of the whole blocks that came before.
        tail: the bytes after those blocks.

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
        """Add the next bytes."""
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
        """All checksums, one after the other; the last block may be shorter."""
        self._whole = ["".join(self._whole)]
        return self._whole[0] + (self._open.hexdigest() if self._in_open else "")
