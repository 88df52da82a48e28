"""The documents in a file of text: .txt, .jsonl, .jsonl.zst or .parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Document", "documents"]


class Document(NamedTuple):
    """One text.

    Attributes:
        name: the file, and where in it: `books.jsonl:17`, from 1, unless the file is one document.
        text: all of it, or an iterator over its pieces where it may be large.
    """

    name: str
    text: str | Iterator[str]


def documents(path: str | os.PathLike[str], *, field: str = "text") -> Iterator[Document]:
    """The documents of a file, in order.

    Args:
        path: a .txt file is one document; .jsonl and .parquet have one per row.
        field: the key, or column, that holds the text.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.open(encoding="utf-8"), 1):
            yield Document(f"{path}:{number}", json.loads(line)[field])
    else:
        yield Document(str(path), path.read_text(encoding="utf-8"))
