"""Token ids of the documents in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np

from transom.errors import InputError
from transom.tokens.blocks import Cutter, TextBlock
from transom.tokens.documents import Document, Documents, Known, documents
from transom.tokens.encoder import Encoder
from transom.tokens.ids import TokenIds
from transom.tokens.parallel import in_order
from transom.tokens.protocols import TokenizerLike
from transom.validation import known_keywords, whole_number

__all__ = ["Document", "Documents", "Tokenized", "documents", "sample", "tokenize_files"]

JOB = 4  # blocks of text that a thread gets at a time


class Tokenized(NamedTuple):
    """Some or all ids of a document.

    Attributes:
        document: name of the document, see `Document`.
        ids: `(tokens,)`, in the smallest dtype that holds the vocabulary; may be empty.
        last: whether the document ends with these ids; a large document comes in several pieces.
        read: bytes on disk read so far, of all files together.
    """

    document: str
    ids: TokenIds
    last: bool
    read: int


def sample(
    paths: Iterable[str | os.PathLike[str]], *, field: str = "text", characters: int = 2_000_000
) -> Iterator[str]:
    """The beginnings of files, about equally much of each, as a sample for `choose_backend`.

    Raises:
        InputError: when a file cannot be read or used; see `documents`.
    """
    paths = list(paths)
    for path in paths:
        left = -(-characters // len(paths))
        for _, text in documents(path, field=field):
            for piece in (text,) if isinstance(text, str) else text:
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    break
            if left <= 0:
                break


class _Part(NamedTuple):
    number: int  # of the document
    document: str
    block: TextBlock
    last: bool
    read: int


@known_keywords
def tokenize_files(
    paths: Iterable[str | os.PathLike[str]],
    tokenizer: TokenizerLike | Encoder,
    *,
    workers: int = 1,
    field: str = "text",
    skip: int = 0,
    noted: Callable[[int, Known], None] = lambda number, known: None,
) -> Iterator[Tokenized]:
    """The ids of every document in the files, in order; the same for any number of workers.

    No special ids are added. A document is cut only where the tokenizer provably does not look
    across; without such a place, it is tokenized as a whole. Every document gives at least one
    item. Memory is bounded by a few hundred kB of text per worker, and by the longest stretch
    without a safe place to cut.

    Args:
        paths: see `documents`.
        tokenizer: a `tokenizers.Tokenizer`, a transformers tokenizer that has one, or an `Encoder`.
        workers: how many threads tokenize.
        field: the JSON key, or column, that holds the text.
        skip: how many documents of the first file to skip.
        noted: called with the number of a file and its size and time: when it is opened, and when
            it has been read to its end, before any item of the next file.

    Raises:
        InputError: when a file cannot be read or used; see `documents`.
        MissingExtraError: when pyarrow is needed, and not installed.
    """
    encoder = Encoder.of(tokenizer)
    workers = whole_number("tokenize_files", "workers", workers, 1, unit="threads")
    threads = workers if encoder.backend.threads else 1
    parts = _parts(paths, field, encoder, skip, noted)

    def tokenized(job: list[_Part]) -> list[Tokenized]:
        made = zip(job, encoder.encode([part.block for part in job]), strict=True)
        return [_joined(list(group)) for _, group in groupby(made, lambda pair: pair[0].number)]

    for items in in_order(tokenized, _jobs(parts, JOB * encoder.backend.block), threads):
        yield from items


def _parts(
    paths: Iterable[str | os.PathLike[str]],
    field: str,
    encoder: Encoder,
    skip: int,
    noted: Callable[[int, Known], None],
) -> Iterator[_Part]:
    """Documents cut into blocks, independently of workers."""
    cutter = Cutter(encoder.boundaries, encoder.backend.block)
    number = before = 0
    for file, path in enumerate(paths):
        found = documents(path, field=field)
        noted(file, found.known)
        for name, text in islice(found, skip, None):
            for piece in (text,) if isinstance(text, str) else text:
                try:
                    blocks = cutter.add(piece)
                except InputError as error:
                    raise InputError(f"{name}: {error}") from error
                for block in blocks:
                    yield _Part(number, name, block, False, before + found.read)
            yield _Part(number, name, cutter.end(), True, before + found.read)
            number += 1
        noted(file, found.known)
        before += found.size
        skip = 0


def _jobs(parts: Iterable[_Part], size: int) -> Iterator[list[_Part]]:
    """Groups of parts with at least `size` characters."""
    job: list[_Part] = []
    held = 0
    for part in parts:
        job.append(part)
        held += len(part.block.text)
        if held >= size:
            yield job
            job, held = [], 0
    if job:
        yield job


def _joined(made: list[tuple[_Part, TokenIds]]) -> Tokenized:
    part = made[-1][0]
    arrays = [ids for _, ids in made]
    ids = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Tokenized(part.document, ids, part.last, part.read)
