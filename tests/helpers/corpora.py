"""Corpora for tests."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from transom.corpus import TokenCorpus
from transom.windows import SlidingWindow

VOCABULARY = 60_000


@st.composite
def texts(draw: Any, empty: bool = True) -> list[list[int]]:
    """Documents whose ids are all different."""
    next_id = itertools.count(1)
    lengths = draw(st.lists(st.integers(0 if empty else 1, 40), max_size=8))
    return [[next(next_id) for _ in range(length)] for length in lengths]


# Sizes so small that a corpus has several shards and blocks.
sizes = st.fixed_dictionaries(
    {
        "block_bytes": st.sampled_from([8, 16, 64]),
        "shard_bytes": st.sampled_from([8, 40, 96, 1024]),
    }
)


def make(path: Path, documents: list[list[int]], **settings: Any) -> TokenCorpus:
    with TokenCorpus.create(path, **{"vocab_size": VOCABULARY, **settings}) as writer:
        for document in documents:
            writer.add_document(document)
    return TokenCorpus.open(path)


def content(corpus: TokenCorpus) -> list[list[int]]:
    """All documents, read by their edges; checks that the other ways of reading agree."""
    documents = [corpus.document(number).tolist() for number in range(corpus.documents)]
    flat = [i for document in documents for i in document]
    assert corpus.read(0, corpus.tokens).tolist() == flat
    assert [i for piece in corpus.pieces(7) for i in piece.tolist()] == flat
    assert np.diff(corpus.edges).tolist() == [len(document) for document in documents]
    assert corpus.tokens == len(flat)
    return documents


def same_windows(corpus: TokenCorpus, documents: list[list[int]], **settings: Any) -> None:
    """Compare all windows with those of a `SlidingWindow`."""
    window = SlidingWindow(**settings, vocab_size=VOCABULARY)
    for document in documents:
        window.add_tokens(document, documents=[len(document)] if document else None)
    wanted = window.get_windows()
    settings["size"] = settings.pop("window_size")
    windows = corpus.windows(**settings)
    assert len(windows) == len(wanted)
    for one, other in zip(windows, wanted, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.attention_mask.tolist() == other.attention_mask.tolist()
        assert one.score_mask.tolist() == other.score_mask.tolist()
        assert one.start == other.start
    numbers = np.random.default_rng(0).permutation(len(wanted))
    for one, other in zip(windows.batch(numbers), wanted.batch(numbers), strict=True):
        assert np.array_equal(one, other)
