"""Token ids of the documents in files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.tokens.documents import Document, documents
from transom.tokens.ids import id_dtype
from transom.tokens.text import tokenize_text
from transom.tokens.tokenizer import vocabulary_of

__all__ = ["Document", "Tokenized", "documents", "tokenize_files"]


class Tokenized(NamedTuple):
    """Some or all ids of a document.

    Attributes:
        document: its name, see `Document`.
        ids: `(tokens,)`, of the smallest dtype that holds the vocabulary; may be empty.
        last: whether the document ends with these. A large one comes in several pieces.
        read: bytes read so far, of all files together, as they are on the disk.
    """

    document: str
    ids: NDArray[Any]
    last: bool
    read: int


def tokenize_files(
    paths: Iterable[str | os.PathLike[str]],
    tokenizer: Any,
    *,
    workers: int = 1,
    field: str = "text",
) -> Iterator[Tokenized]:
    """The ids of every document in the files, in order; the same for any number of workers.

    Args:
        paths: see `documents`.
        tokenizer: a `tokenizers.Tokenizer`, or a transformers tokenizer that has one.
        workers: how many threads tokenize.
        field: the key, or column, that holds the text.
    """
    nothing = np.empty(0, dtype=id_dtype(vocabulary_of(tokenizer)))
    read = 0
    for path in paths:
        for name, text in documents(path, field=field):
            for ids in tokenize_text(tokenizer, [text] if isinstance(text, str) else text):
                yield Tokenized(name, ids, last=False, read=read)
            yield Tokenized(name, nothing, last=True, read=read)
        read += Path(path).stat().st_size
