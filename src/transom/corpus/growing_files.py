"""The files of a corpus that its writer appends to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from transom.corpus.growing import GrowingFile, second_name
from transom.corpus.manifest import Manifest, Stored
from transom.tokens import TokenIds

__all__ = ["GrowingFiles"]


def _shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"{number:06d}.tokens"


class GrowingFiles:
    """Shards of ids, document edges and sources, each open for appending.

    A shard that is full is followed by a new one. What is appended is not committed: the writer
    does that, with what `sync` returns.

    Attributes:
        is_open: whether the files are open.
        source_bytes: size of the file of sources.

    Raises:
        CorpusDamageError: when a file is shorter than what is committed, or its last block is
            damaged.
        OSError: when a file cannot be opened or written; then and in every other method.
    """

    def __init__(self, folder: Path, committed: Manifest) -> None:
        self._folder = folder
        self._committed = committed
        self._open: dict[str, GrowingFile] = {}
        self._dtype = np.dtype(committed.dtype)
        self._shards = list(committed.shards)
        try:
            self._ends = self._grow(committed.ends)
            self._sources = self._grow(committed.sources)
            full = self._shards and self._shards[-1].bytes >= committed.shard_bytes
            if not self._shards or full:
                self._shards.append(Stored(_shard_name(len(self._shards))))
            self._shard = self._grow(self._shards[-1])
        except BaseException:
            self.abandon(committed)
            raise

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    @property
    def source_bytes(self) -> int:
        return self._sources.bytes

    def write_ids(self, ids: TokenIds) -> None:
        """Append ids of the dtype of the corpus, over as many shards as they need."""
        room = self._committed.shard_bytes // self._dtype.itemsize
        while len(ids):
            held = self._shard.bytes // self._dtype.itemsize
            if held >= room:
                self._start_shard(Stored(self._finish_shard()))
                held = 0
            self._shard.write(ids[: room - held].data)
            ids = ids[room - held :]

    def write_edges(self, edges: TokenIds) -> None:
        """Append positions at which documents end."""
        self._ends.write(edges.astype("<i8").data)

    def write_source(self, line: bytes) -> None:
        """Append a line to the file of sources."""
        self._sources.write(line)

    def adopt(self, path: Path, stored: Stored) -> None:
        """Make the file at `path` the next shard, without reading it."""
        name = self._finish_shard()
        second_name(path, self._folder / name)
        self._start_shard(replace(stored, name=name))

    def sync(self) -> Manifest:
        """Write everything to the disk; the committed manifest with the files as they are now."""
        self._shards[-1] = self._shard.sync()
        return replace(
            self._committed,
            shards=tuple(shard for shard in self._shards if shard.bytes),
            ends=self._ends.sync(),
            sources=self._sources.sync(),
        )

    def abandon(self, committed: Manifest) -> None:
        """Close all files, each cut to what is committed of it."""
        sizes = {stored.name: stored.bytes for stored in committed.files}
        for name, file in self._open.items():
            with suppress(OSError):  # Bytes that are not committed count for nothing, if they stay.
                file.abandon(sizes.get(name, 0))
        self._open.clear()

    def _finish_shard(self) -> str:
        """Close the shard that is being written; the name of the next one.

        An empty shard gives its name to the next one.
        """
        self._shards[-1] = self._shard.sync()
        self._shard.close()
        if not self._shards[-1].bytes:
            self._shards.pop()
        return _shard_name(len(self._shards))

    def _start_shard(self, stored: Stored) -> None:
        self._shards.append(stored)
        self._shard = self._grow(stored)

    def _grow(self, stored: Stored) -> GrowingFile:
        file = GrowingFile(self._folder, stored, self._committed.block_bytes)
        self._open[stored.name] = file
        return file
