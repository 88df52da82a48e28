"""A corpus at one commit, memory-mapped and immutable."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from transom.corpus.manifest import Manifest
from transom.corpus.maps import MappedFile, MappedTokens
from transom.tokens import TokenIds
from transom.windows import Cut, TokenWindows

__all__ = ["Snapshot"]

CUTS_KEPT = 4  # cuts whose windows are remembered


class Snapshot:
    """The content of one commit of a corpus.

    Notes:
        Threads may share it without a lock: it is complete when it is made, and the windows it
        remembers are replaced atomically. A refresh makes another snapshot and does not change
        this one.

    Attributes:
        manifest: what was committed.
        edges: positions at which documents start, then where the last one stops,
            `(documents + 1,)`; read-only.
        tokens: all ids.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.dtype = np.dtype(manifest.dtype)
        self._shards = [MappedFile(folder, shard, self.dtype) for shard in manifest.shards]
        self._ends = MappedFile(folder, manifest.ends, np.dtype("<i8"))
        edges = self._ends.array.astype(np.int64, copy=False)
        self.edges = edges if len(edges) else np.zeros(1, dtype=np.int64)
        self.tokens = self.tokens_anew()
        self._windows: dict[Cut, TokenWindows] = {}

    def tokens_anew(self) -> MappedTokens:
        """All ids, with their own position of sequential reading."""
        return MappedTokens(self._shards, self.dtype)

    def document(self, number: int) -> TokenIds:
        """The ids of one document; see `TokenCorpus.document`."""
        documents = self.manifest.documents
        if not -documents <= number < documents:
            raise IndexError(f"document {number} was asked for; there are {documents:,}.")
        first, stop = self.edges[number % documents :][:2].tolist()
        return self.tokens.read(first, stop)

    def windows(self, cut: Cut) -> TokenWindows:
        """The windows of all documents; those of the last few cuts are remembered."""
        known = self._windows
        windows = known.get(cut)
        if windows is None:
            windows = TokenWindows(cut, self.tokens_anew(), self.edges)
            newest = islice(known.items(), max(0, len(known) - CUTS_KEPT + 1), None)
            self._windows = {**dict(newest), cut: windows}
        return windows

    def release(self) -> None:
        """Release the memory of what was read."""
        for mapped in (*self._shards, self._ends):
            mapped.release()
