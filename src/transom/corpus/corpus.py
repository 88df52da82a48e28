"""A corpus of token ids on disk, of any size, read through memory maps."""

from __future__ import annotations

import os
from copy import copy
from pathlib import Path
from typing import Any, Self

from transom.corpus.create import first_manifest, make_folder
from transom.corpus.datasets import make_dataset
from transom.corpus.formats import read_format, write_format
from transom.corpus.lock import WriterLock
from transom.corpus.manifest import Manifest, read_manifest
from transom.corpus.reader import CorpusReader
from transom.corpus.snapshot import Snapshot
from transom.corpus.tokenizer import check_tokenizer
from transom.corpus.verify import verify
from transom.corpus.writer import CorpusWriter
from transom.forks import ThreadLock
from transom.tokens.protocols import TokenizerLike
from transom.validation import known_keywords, named_path

__all__ = ["TokenCorpus"]


@known_keywords
class TokenCorpus(CorpusReader):
    """Token ids of documents in a folder, as they were at one commit.

    Nothing is read before it is asked for, and reading in order keeps only a few megabytes in
    memory. One writer may append meanwhile; call `refresh` to see what it committed. Several
    threads may read and refresh; each call sees one commit. A pickle stays at the commit seen.

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
        super().__init__(path, manifest)
        self._refreshing = ThreadLock()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        tokenizer: TokenizerLike | str | None = None,
        verified: bool = False,
    ) -> Self:
        """Open a corpus for reading, as it was last committed.

        Args:
            path: its folder.
            tokenizer: the tokenizer that the corpus must have been made with, if given: a
                `tokenizers.Tokenizer`, a fast tokenizer of transformers, or a fingerprint.
            verified: read all of it first, and compare it with the checksums.

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
        tokenizer: TokenizerLike | str | None = None,
        name: str = "",
        block_bytes: int = 1 << 20,
        shard_bytes: int = 1 << 30,
    ) -> CorpusWriter:
        """Make an empty corpus; returns its writer, which is a context manager.

        When the writer fails before its first commit, the corpus is removed again.

        Args:
            path: a folder that is new, is empty, or holds a corpus to which nothing was ever
                committed.
            vocab_size: ids are below it; by default that of the tokenizer. It decides how many
                bytes a token takes.
            tokenizer: the tokenizer of the ids; its fingerprint is kept, and others are refused
                later.
            name: name of the tokenizer, for people.
            block_bytes: how many bytes each checksum covers.
            shard_bytes: size of a file of ids.

        Raises:
            InputError: when settings make no sense, or the folder holds something else.
        """
        folder = _folder(path)
        manifest = first_manifest(vocab_size, tokenizer, name, block_bytes, shard_bytes)
        lock, unmake = make_folder(folder, manifest)
        return CorpusWriter(folder, lambda: manifest, lock, unmake)

    @staticmethod
    def append(
        path: str | os.PathLike[str], *, tokenizer: TokenizerLike | str | None = None
    ) -> CorpusWriter:
        """Append to a corpus; returns its writer, which is a context manager.

        Raises:
            CorpusBusyError: when it has another writer.
            CorpusError: when there is no corpus, or it was made with another tokenizer.
            CorpusDamageError: when the last block of a file is damaged.
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
        """Make a corpus from the files of another program, and open it.

        Args:
            path: folder of the corpus, new or empty.
            of: `nanogpt`, `megatron` or `datatrove`.
            source: the file, with or without its suffix.
            separator: the id that ends documents, for formats that do not keep their ends.
            settings: see `create`.

        Raises:
            InputError: when the format is unknown, or the files do not have it.
        """
        with cls.create(path, **settings) as writer:
            read_format(writer, of, source, separator=separator)
        return cls.open(path)

    def refresh(self) -> bool:
        """Go to the last commit; returns whether there was a new one.

        Windows that were asked for before do not change.
        """
        with self._refreshing:  # otherwise an older commit could replace a newer one
            manifest = read_manifest(self.path)
            # Not `commit` alone: a corpus that was made anew may have as many.
            if manifest == self.manifest:
                return False
            self._seen = Snapshot(self.path, manifest)
            return True

    def export(
        self, to: str, out: str | os.PathLike[str], *, separator: int | None = None
    ) -> list[Path]:
        """Write all documents in the format of another program; see `transom.corpus.formats`.

        Args:
            to: `nanogpt`, `megatron`, `datatrove`, `parquet`, `arrow` or `datasets`.
            out: name of the file, with or without its suffix, or an existing folder.
            separator: the id that ends documents, for formats that do not keep their ends.

        Returns:
            The files written.

        Raises:
            InputError: when the format is unknown, or cannot hold this corpus.
        """
        return write_format(copy(self), to, out, separator=separator)  # a copy stays at one commit

    def torch_dataset(self, size: int = 512, **settings: Any) -> Any:
        """A map-style dataset of windows for PyTorch; see `transom.torch_data.WindowDataset`.

        Raises:
            MissingExtraError: when torch is not installed.
        """
        return make_dataset("torch_dataset", self, size, settings)

    def torch_stream(self, size: int = 512, **settings: Any) -> Any:
        """An endless dataset of batches for PyTorch; see `transom.torch_data.WindowStream`.

        Raises:
            MissingExtraError: when torch is not installed.
        """
        return make_dataset("torch_stream", self, size, settings)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.manifest)

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<TokenCorpus: {manifest.tokens:,} tokens in {manifest.documents:,} documents>"


def _folder(path: str | os.PathLike[str]) -> Path:
    return named_path("TokenCorpus: path", path, "a folder")
