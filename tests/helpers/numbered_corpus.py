"""Corpora for tests, in which each window starts with its own number."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from transom.corpus import TokenCorpus

SIZE = 8
LENGTHS = (3, 1, 10, 0, 20, 3)  # windows of each document
WINDOWS = sum(LENGTHS)


def numbered(folder: Path, lengths: Iterable[int] = LENGTHS, shard_bytes: int = 64) -> TokenCorpus:
    """A corpus of documents of a few windows each."""
    with TokenCorpus.create(folder, vocab_size=60_000, shard_bytes=shard_bytes) as writer:
        number = 0
        for length in lengths:
            ids = np.zeros(length * SIZE, dtype=int)
            ids[::SIZE] = range(number, number + length)
            writer.add_document(ids)
            number += length
    return TokenCorpus.open(folder)


def numbers(batches: Any) -> list[int]:
    """The numbers of the windows in batches or items."""
    return [int(n) for batch in batches for n in batch["input_ids"].reshape(-1, SIZE)[:, 0]]
