"""A file that only grows, of which a number of bytes from the start are committed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from transom.corpus.manifest import Stored
from transom.corpus.sums import BlockSums, digest
from transom.errors import CorpusDamageError
from transom.forks import closed_in_forks

__all__ = ["GrowingFile", "second_name", "short_of"]


class GrowingFile:
    """Appends bytes to the committed part of a file; bytes after that part are cut off first.

    Raises:
        CorpusDamageError: when the file has fewer bytes than are committed, or its last block,
            which new bytes continue, is damaged.
        OSError: when it cannot be opened.
    """

    def __init__(self, folder: Path, stored: Stored, block_bytes: int) -> None:
        self._path = folder / stored.name
        self.name = stored.name
        whole = stored.bytes // block_bytes
        self._file = closed_in_forks(self._path.open("r+b" if stored.bytes else "w+b"))
        try:
            self._file.seek(whole * block_bytes)
            tail = self._file.read(stored.bytes - whole * block_bytes)
            if self._file.tell() < stored.bytes:
                raise short_of(self._path, self._file.tell(), stored.bytes)
            if tail and digest(tail) != stored.sum_of(whole):
                raise CorpusDamageError(
                    f"{self._path} is damaged: block {whole:,}, bytes {whole * block_bytes:,} to "
                    f"{stored.bytes:,}, so nothing can be appended; run `transom corpus verify`."
                )
            self._file.truncate(stored.bytes)
        except BaseException:
            self._file.close()
            raise
        self.bytes = stored.bytes
        self._synced = stored.bytes
        self._sums = BlockSums(block_bytes, stored.sums[: whole * len(digest(b""))], tail)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, without committing them."""
        self._file.write(data)
        self._sums.update(data)
        self.bytes += memoryview(data).nbytes

    def sync(self) -> Stored:
        """Write everything to the disk; returns what can then be committed."""
        if self._synced < self.bytes:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._synced = self.bytes
        return Stored(self.name, self.bytes, self._sums.hex())

    def close(self) -> None:
        """Close the file; bytes that were not synced may be lost."""
        self._file.close()

    def abandon(self, committed: int) -> None:
        """Close the file and cut it to the committed bytes."""
        with suppress(OSError):  # The bytes that cannot be written are not wanted.
            self._file.close()
        if committed:
            os.truncate(self._path, committed)
        else:
            self._path.unlink(missing_ok=True)


def short_of(path: Path, found: int, committed: int) -> CorpusDamageError:
    """The error to raise when a file has fewer bytes than were committed."""
    return CorpusDamageError(
        f"{path} is damaged: it has {found:,} bytes, and {committed:,} were committed."
    )


def second_name(path: Path, name: Path) -> None:
    """Give a file a second name; copy it where the system has no hard links."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        with path.open("rb") as source, name.open("wb") as target:
            while piece := source.read(1 << 22):
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
