"""Compares what is on disk with what was committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transom.corpus.manifest import COPY, MANIFEST, Manifest, Stored, read_manifest
from transom.corpus.sums import digest
from transom.errors import CorpusDamageError
from transom.validation import known_keywords

__all__ = ["Damage", "verify"]

AT_ONCE = 1 << 22  # the most bytes held in memory


class Damage(NamedTuple):
    """Bytes that differ from what was committed.

    Attributes:
        file: name of the file, in the folder of the corpus.
        block: number of the block; None for a file without blocks.
        start, stop: the range of bytes of that block.
        reason: what is wrong.
    """

    file: str
    block: int | None
    start: int
    stop: int
    reason: str

    def __str__(self) -> str:
        block = "" if self.block is None else f"block {self.block:,}, "
        return f"{self.file}: {block}bytes {self.start:,} to {self.stop:,}: {self.reason}"

    def error(self, folder: Path) -> CorpusDamageError:
        """The error to raise for it."""
        return CorpusDamageError(f"{folder} is damaged: {self}.")


@known_keywords
def verify(
    folder: Path, moved: Callable[[str, int], None] = lambda name, size: None
) -> Iterator[Damage]:
    """Read everything that is committed; yields damage as it is found.

    Args:
        folder: folder of the corpus.
        moved: called with the name of a file and how many more bytes of it were read.

    Raises:
        CorpusError: when there is no corpus.
        CorpusDamageError: when both the manifest and its copy are damaged.
    """
    manifest, *damaged = _manifests(folder)
    yield from damaged
    named = set()
    for stored in manifest.files:
        for damage in _file(folder, stored, manifest.block_bytes, moved):
            named.add(damage.file)
            yield damage
    if manifest.ends.name not in named:
        yield from _documents(folder, manifest)


def _manifests(folder: Path) -> tuple[Manifest, *tuple[Damage, ...]]:
    found: list[Manifest] = []
    damaged: list[Damage] = []
    for name in (MANIFEST, COPY):
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            if name == MANIFEST:
                read_manifest(folder)  # raises when this is not a corpus at all
            damaged.append(Damage(name, None, 0, 0, f"cannot be read: {error.strerror}"))
            continue
        try:
            found.append(Manifest.from_bytes(data, name))
        except CorpusDamageError as error:
            reason = str(error).removeprefix(f"{name} is damaged: ").rstrip(".")
            damaged.append(Damage(name, None, 0, len(data), reason))
    if not found:
        raise CorpusDamageError(f"{folder} is damaged: {'; '.join(map(str, damaged))}.")
    return found[0], *damaged


def _file(
    folder: Path, stored: Stored, block_bytes: int, moved: Callable[[str, int], None]
) -> Iterator[Damage]:
    if not stored.bytes:
        return
    blocks = max(1, AT_ONCE // block_bytes)
    buffer = memoryview(bytearray(blocks * block_bytes))
    try:
        with (folder / stored.name).open("rb", buffering=0) as file:
            for at in range(0, stored.bytes, len(buffer)):
                wanted = min(len(buffer), stored.bytes - at)
                read = _read_into(file, buffer[:wanted])
                for start in range(0, wanted, block_bytes):
                    block = (at + start) // block_bytes
                    stop = min(start + block_bytes, wanted)
                    if read < stop:
                        reason = f"the file ends at {at + read:,}"
                    elif digest(buffer[start:stop]) != stored.sum_of(block):
                        reason = "the xxh3 is not the one committed"
                    else:
                        continue
                    yield Damage(stored.name, block, at + start, at + stop, reason)
                moved(stored.name, wanted)
    except OSError as error:
        yield Damage(stored.name, None, 0, stored.bytes, f"cannot be read: {error.strerror}")


def _read_into(file: FileIO, buffer: memoryview) -> int:
    read = 0
    while read < len(buffer) and (count := file.readinto(buffer[read:])):
        read += count
    return read


def _documents(folder: Path, manifest: Manifest) -> Iterator[Damage]:
    """Check that document edges make sense, which a right checksum does not prove."""
    stored = manifest.ends
    path = folder / stored.name
    if not stored.bytes:
        return
    last = 0
    at_once = AT_ONCE // 8
    count = stored.bytes // 8
    for at in range(0, count, at_once):
        edges = np.fromfile(path, "<i8", min(at_once, count - at), offset=at * 8)
        if (np.diff(edges, prepend=last) < 0).any():
            yield Damage(stored.name, None, at * 8, (at + len(edges)) * 8, "edges do not ascend")
        last = int(edges[-1])
    tokens = sum(shard.bytes for shard in manifest.shards) // np.dtype(manifest.dtype).itemsize
    if last != manifest.tokens or tokens != last or count != manifest.documents + 1:
        yield Damage(
            stored.name,
            None,
            0,
            stored.bytes,
            "edges do not fit the numbers of tokens and documents",
        )
