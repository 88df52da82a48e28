"""A corpus of token ids on disk, of any size, read through memory maps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from transom.corpus.create import first_manifest, make_folder
from transom.corpus.formats import read_format, write_format
from transom.corpus.lock import WriterLock
from transom.corpus.manifest import Manifest, read_manifest
from transom.corpus.maps import MappedFile
from transom.corpus.snapshot import Snapshot
from transom.corpus.tokenizer import check_tokenizer
from transom.corpus.verify import verify
from transom.corpus.writer import CorpusWriter
from transom.errors import MissingExtraError
from transom.forks import ThreadLock
from transom.validation import known_keywords, named_path, whole_number
from transom.windows import SlidingWindow, TokenWindows

__all__ = ["TokenCorpus"]

TOKENS_AT_ONCE = 1 << 20


@known_keywords
class TokenCorpus:
    """Token ids of documents in a folder, as they were at one commit.

    Nothing is read before it is asked for, and reading in order keeps no more than some megabytes
    in memory. One writer may append meanwhile: `refresh` shows what it committed. May be used and
    refreshed from several threads, each call seeing one commit; and pickled, which takes along the
    commit that is seen.

    Attributes:
        path: the folder.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/books"
    >>> with TokenCorpus.create(folder, vocab_size=50_000) as writer:
    ...     for document in ([1, 2, 3], [4, 5, 6, 7, 8]):
    ...         writer.add_document(document)
    >>> corpus = TokenCorpus.open(folder)
    >>> corpus, corpus.document(0)
    (<TokenCorpus: 8 tokens in 2 documents>, array([1, 2, 3], dtype=uint16))
    >>> corpus.windows(4, stride=2)[2].ids
    array([6, 7, 8, 0], dtype=uint16)
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._seen = Snapshot(path, manifest)
        self._refreshing = ThreadLock()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, tokenizer: Any = None, verified: bool = False
    ) -> Self:
        """Open a corpus for reading, as it was last committed.

        Args:
            path: its folder.
            tokenizer: when given, that of the corpus: a `tokenizers.Tokenizer`, a fast tokenizer
                of transformers, or a fingerprint.
            verified: read all of it and compare it with what was committed.

        Raises:
            CorpusError: when there is no corpus, or it was made with another tokenizer.
            CorpusDamageError: when it is damaged.
        """
        folder = _folder(path)
        manifest = read_manifest(folder)
        check_tokenizer(folder, manifest, tokenizer)
        if verified:
            for damage in verify(folder):
                raise damage.error(folder)
        return cls(folder, manifest)

    @staticmethod
    def create(
        path: str | os.PathLike[str],
        *,
        vocab_size: int | None = None,
        tokenizer: Any = None,
        name: str = "",
        block_bytes: int = 1 << 20,
        shard_bytes: int = 1 << 30,
    ) -> CorpusWriter:
        """Make a corpus, empty and committed; returns its writer, which is a context manager.

        When its first use fails before anything was added and committed, it is taken away again.

        Args:
            path: a folder that is not there, is empty, or holds a corpus without any commit but
                that of its making.
            vocab_size: ids are below it; by default, what the tokenizer has. It decides how many
                bytes a token takes.
            tokenizer: that of the ids; its fingerprint is kept, and others are refused later.
            name: of the tokenizer, for people.
            block_bytes: how many bytes one checksum is of.
            shard_bytes: size of a file of ids.

        Raises:
            InputError: on settings that make no sense, or a folder that holds something.
        """
        folder = _folder(path)
        manifest = first_manifest(vocab_size, tokenizer, name, block_bytes, shard_bytes)
        lock, unmake = make_folder(folder, manifest)
        return CorpusWriter(folder, lambda: manifest, lock, unmake)

    @staticmethod
    def append(path: str | os.PathLike[str], *, tokenizer: Any = None) -> CorpusWriter:
        """Write at the end of a corpus; returns its writer, which is a context manager.

        Raises:
            CorpusBusyError: when another writer has it.
            CorpusError: when there is none, or it was made with another tokenizer.
            CorpusDamageError: when what would be gone on with is damaged.
        """
        folder = _folder(path)
        check_tokenizer(folder, read_manifest(folder), tokenizer)
        return CorpusWriter(folder, lambda: read_manifest(folder), WriterLock(folder))

    @classmethod
    def convert(
        cls,
        path: str | os.PathLike[str],
        of: str,
        source: str | os.PathLike[str],
        *,
        separator: int | None = None,
        **settings: Any,
    ) -> Self:
        """Make a corpus of another program's files, and open it.

        Args:
            path: the corpus' folder, which is not there or empty.
            of: `nanogpt`, `megatron` or `datatrove`.
            source: the file, with or without its suffix.
            separator: the id that ends documents, where the format keeps no ends.
            settings: see `create`.

        Raises:
            InputError: on an unknown format, or files that are not of it.
        """
        with cls.create(path, **settings) as writer:
            read_format(writer, of, source, separator=separator)
        return cls.open(path)

    @property
    def manifest(self) -> Manifest:
        """What was committed."""
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
    def dtype(self) -> np.dtype[Any]:
        """Of the ids."""
        return np.dtype(self.manifest.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes committed on disk, without the manifest."""
        return sum(file.bytes for file in self.manifest.files)

    @property
    def edges(self) -> NDArray[np.int64]:
        """Where documents start, and where the last one stops, `(documents + 1,)`; read-only."""
        return self._seen.edges

    def refresh(self) -> bool:
        """See what was committed meanwhile; whether there was anything.

        Windows that were asked for before stay as they are.
        """
        with self._refreshing:  # or an older commit could replace a newer one
            manifest = read_manifest(self.path)
            if manifest == self.manifest:  # One that was made anew may have as many commits.
                return False
            self._seen = Snapshot(self.path, manifest)
            return True

    def document(self, number: int) -> NDArray[Any]:
        """The ids of one document: a read-only view of the map, unless it lies in two shards.

        Raises:
            IndexError: when there is no such document.
        """
        return self._seen.document(number)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """The ids at positions `start` to `stop`, over all documents; as `document`."""
        tokens = self._seen.tokens
        start, stop, _ = slice(start, stop).indices(len(tokens))
        return tokens.read(start, max(start, stop))

    def pieces(self, size: int = TOKENS_AT_ONCE) -> Iterator[NDArray[Any]]:
        """All ids in order, at most `size` at a time; memory stays constant."""
        whole_number("TokenCorpus", "size", size, 1)
        tokens = self._seen.tokens_anew()
        for at in range(0, len(tokens), size):
            yield tokens.read(at, min(at + size, len(tokens)))

    def sources(self) -> Iterator[dict[str, Any]]:
        """What was noted of where documents came from, oldest first."""
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
        """The windows that a `SlidingWindow` of these settings would make of all documents.

        A sequence that makes windows when they are asked for: `[number]` without copying where
        it can be, `batch(numbers, out=buffers)` into arrays that are there already. Making it
        takes a pass over the document edges, and 8 bytes of memory per document.

        Args:
            size: ids per window.
            stride, overlap: see `SlidingWindow`; by default windows overlap by half.
            settings: `pad_id`, `padding_side`, `drop_last`, `bos_id`, `eos_id`, `packed`.

        Raises:
            InputError: on settings that make no sense.
        """
        cut = SlidingWindow(
            size, stride, overlap=overlap, vocab_size=self.manifest.vocab_size, **settings
        ).cut
        return self._seen.windows(cut)

    def export(
        self, to: str, out: str | os.PathLike[str], *, separator: int | None = None
    ) -> list[Path]:
        """Write everything as another program's files; see `transom.corpus.formats`.

        Args:
            to: `nanogpt`, `megatron`, `datatrove`, `parquet`, `arrow` or `datasets`.
            out: name of the file, with or without its suffix, or a folder that is there.
            separator: the id that ends documents, where the format needs one.

        Raises:
            InputError: on an unknown format, or one that cannot hold this.
        """
        return write_format(copy(self), to, out, separator=separator)  # of one commit

    def torch_dataset(self, size: int = 512, **settings: Any) -> Any:
        """A map-style dataset of windows for PyTorch; see `transom.data.WindowDataset`.

        Raises:
            MissingExtraError: when torch is not installed.
        """
        return _data().WindowDataset(self, size, **settings)

    def torch_stream(self, size: int = 512, **settings: Any) -> Any:
        """An endless dataset of batches for PyTorch; see `transom.data.WindowStream`.

        Raises:
            MissingExtraError: when torch is not installed.
        """
        return _data().WindowStream(self, size, **settings)

    def release(self) -> None:
        """Take what was read out of this process' memory; it is mapped again when needed."""
        self._seen.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.manifest)

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<TokenCorpus: {manifest.tokens:,} tokens in {manifest.documents:,} documents>"


def _folder(path: str | os.PathLike[str]) -> Path:
    return named_path("TokenCorpus: path", path, "a folder")


def _data() -> Any:
    """The room above this one that has the datasets, imported when one is asked for."""
    try:
        return import_module("transom.data")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError(
            "datasets for PyTorch need torch, which is not installed: pip install 'transom[torch]'."
        ) from error
