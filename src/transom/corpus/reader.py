"""Reading the ids of a corpus, as they were at one commit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.corpus.manifest import Manifest
from transom.corpus.maps import MappedFile
from transom.corpus.snapshot import Snapshot
from transom.tokens import TokenIds
from transom.tokens.json_line import JsonObject
from transom.validation import known_keywords, whole_number
from transom.windows import SlidingWindow, TokenWindows

__all__ = ["CorpusReader"]

TOKENS_AT_ONCE = 1 << 20


@known_keywords
class CorpusReader:
    """The documents, ids and windows of a corpus at one commit; numpy only, through memory maps.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._seen = Snapshot(path, manifest)

    @property
    def manifest(self) -> Manifest:
        """What was committed, as this reader sees it."""
        return self._seen.manifest

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.manifest.tokens

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return self.manifest.documents

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """The dtype of the ids, little-endian."""
        return np.dtype(self.manifest.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all files on disk, without the manifest."""
        return sum(file.bytes for file in self.manifest.files)

    @property
    def edges(self) -> NDArray[np.int64]:
        """Positions at which documents start, then where the last stops, `(documents + 1,)`."""
        return self._seen.edges

    def document(self, number: int) -> TokenIds:
        """The ids of a document, read-only: a view, or a copy when it lies in two shards.

        Raises:
            IndexError: when there is no such document.
        """
        return self._seen.document(number)

    def read(self, start: int, stop: int) -> TokenIds:
        """The ids at positions `start` to `stop`, counted over all documents; see `document`."""
        tokens = self._seen.tokens
        start, stop, _ = slice(start, stop).indices(len(tokens))
        return tokens.read(start, max(start, stop))

    def pieces(self, size: int = TOKENS_AT_ONCE) -> Iterator[TokenIds]:
        """All ids in order, at most `size` at a time, in constant memory."""
        whole_number("TokenCorpus", "size", size, 1)
        tokens = self._seen.tokens_anew()
        for at in range(0, len(tokens), size):
            yield tokens.read(at, min(at + size, len(tokens)))

    def sources(self) -> Iterator[JsonObject]:
        """The notes on where documents came from, oldest first."""
        noted = MappedFile(self.path, self.manifest.sources, np.dtype(np.uint8))
        for line in noted.array.tobytes().splitlines():
            yield json.loads(line)

    def windows(
        self,
        size: int = 512,
        stride: int | None = None,
        *,
        overlap: int | None = None,
        **settings: Any,
    ) -> TokenWindows:
        """The windows that a `SlidingWindow` with these settings would make of all documents.

        A sequence that makes windows when they are asked for: `[number]` gives a view where it
        can, and `batch(numbers, out=buffers)` writes into existing arrays. Making the sequence
        takes one pass over the document edges, and 8 bytes of memory per document.

        Args:
            size: ids per window.
            stride, overlap: see `SlidingWindow`; by default windows overlap by half.
            settings: `pad_id`, `padding_side`, `drop_last`, `bos_id`, `eos_id`, `packed`.

        Raises:
            InputError: when settings make no sense.
        """
        cut = SlidingWindow(
            size, stride, overlap=overlap, vocab_size=self.manifest.vocab_size, **settings
        ).cut
        return self._seen.windows(cut)

    def release(self) -> None:
        """Release the memory of what was read; it is mapped again when needed."""
        self._seen.release()
