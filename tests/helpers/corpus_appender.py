"""A process that appends to a corpus until it is killed."""

from __future__ import annotations

import random

import numpy as np

from transom.corpus import TokenCorpus

VOCABULARY = 60_000


def numbered(number: int) -> np.ndarray:
    """The document with that number: a few hundred ids, or none."""
    rng = np.random.default_rng(number)
    return rng.integers(0, VOCABULARY, int(rng.integers(0, 600)), dtype=np.uint16)


def append_for_ever(folder: str) -> None:
    writer = TokenCorpus.append(folder)
    print("ready", flush=True)
    while True:
        for _ in range(random.randrange(1, 20)):
            writer.add_document(numbered(writer.documents))
        writer.add_source({"documents": writer.documents})
        writer.commit()
