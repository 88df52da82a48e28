from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.forking import in_a_fork
from tests.helpers.window_texts import SIZES, texts
from transom.errors import InputError
from transom.evaluate.rss import peak_rss, reset_peak_rss
from transom.windows import MemoryEfficientContext


@given(SIZES, SIZES, texts())
def test_whole_chunks_drop(a: int, b: int, text: Any) -> None:
    chunk, length = sorted((a, b))
    context, tokens = MemoryEfficientContext(length, chunk, vocab_size=500), []
    for piece in text[1]:
        context.add_tokens(piece)
        for token in piece:
            tokens.append(token)
            if len(tokens) > length:
                tokens = tokens[chunk:]
        assert context.get_context().tolist() == tokens
        assert len(context) <= length
        assert [i for c in context.chunks() for i in c.tolist()] == tokens
        assert all(len(c) == chunk for c in [*context.chunks()][:-1])
        chunks = -(-len(tokens) // chunk)
        assert context.nbytes == chunks * chunk * 2 <= -(-length // chunk) * chunk * 2


@given(SIZES, SIZES, st.integers(2, 6), texts())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spilling_shows_the_same(tmp_path: Path, a: int, b: int, held: int, text: Any) -> None:
    chunk, length = sorted((a, b))
    spilling = MemoryEfficientContext(
        length, chunk, vocab_size=500, spill=tmp_path, ram_bytes=held * chunk * 2 + 1
    )
    plain = MemoryEfficientContext(length, chunk, vocab_size=500)
    for piece in [*text[1], text[0]]:
        spilling.add_tokens(piece)
        plain.add_tokens(piece)
        assert spilling.ids.tolist() == plain.ids.tolist()
        assert (spilling.seen, len(spilling)) == (plain.seen, len(plain))
        assert spilling.nbytes <= held * chunk * 2
    again = pickle.loads(pickle.dumps(spilling))
    assert again == spilling
    assert copy.deepcopy(again) == spilling
    again.clear()
    again.add_tokens([1, 2, 3])
    plain.clear()
    plain.add_tokens([1, 2, 3])
    assert again.ids.tolist() == plain.ids.tolist()


@pytest.mark.skipif(peak_rss() is None, reason="this system does not say how much memory is used")
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    context = MemoryEfficientContext(
        40_000_000, 100_000, spill=tmp_path, ram_bytes=2_000_000, vocab_size=2**31
    )
    assert context.file_nbytes == 160_000_000
    block = np.arange(100_000, dtype=np.int32)
    context.add_tokens(block)
    reset_peak_rss()
    before = peak_rss()
    for _ in range(450):
        context.add_tokens(block)
    for chunk in context.chunks():
        assert chunk[-1] == 99_999
    after = peak_rss()
    assert before is not None
    assert after is not None
    assert after - before < 16_000_000
    assert context.nbytes <= 2_000_000
    assert len(context) == 40_000_000


def test_the_file_has_no_name_and_goes_with_the_window(tmp_path: Path) -> None:
    context = MemoryEfficientContext(100, 10, spill=tmp_path, ram_bytes=200)
    context.add_tokens(range(100))
    assert [*tmp_path.iterdir()] == []
    del context


def test_a_fork_leaves_the_file_alone(tmp_path: Path) -> None:
    context = MemoryEfficientContext(100, 10, spill=tmp_path, ram_bytes=80)
    context.add_tokens(range(15))
    kept = pickle.dumps(context)

    def shown() -> list[int]:
        return context.ids.tolist()

    assert in_a_fork(shown) == [*range(15)]  # no chunk is in the file yet
    context.add_tokens(range(15, 70))
    for refused in (shown, lambda: context.add_tokens([7]), lambda: pickle.dumps(context)):
        with pytest.raises(InputError, match=r"the spill file in .* belongs to process"):
            in_a_fork(refused)
    assert shown() == [*range(70)]

    def anew() -> list[int]:
        context.clear()
        context.add_tokens(range(200, 290))
        return shown()

    assert in_a_fork(anew) == [*range(200, 290)]
    assert in_a_fork(lambda: pickle.loads(kept).ids.tolist()) == [*range(15)]
    assert shown() == [*range(70)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunk_size": 600}, "chunk_size is 600 and max_length 512"),
        ({"spill": "."}, "spill and ram_bytes go together"),
        ({"ram_bytes": 4096}, "spill and ram_bytes go together"),
        ({"spill": ".", "ram_bytes": 1023}, "ram_bytes is 1023; expected at least 1024"),
        ({"spill": ".", "ram_bytes": 1e6}, "ram_bytes is 1000000.0"),
        ({"spill": "no/such/folder", "ram_bytes": 1024}, "cannot make a spill file"),
        (
            {"spill": ".", "ram_bytes": 1024, "max_length": 10**15},
            "cannot make a spill file of 4,000,000,000,000,000 bytes",
        ),
    ],
    ids=str,
)
def test_hostile_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MemoryEfficientContext(**arguments)


@pytest.mark.parametrize("spill", ["", " ", "a\0b", "~nobody-of-that-name/spill", 5])
def test_folders_that_are_none(spill: Any) -> None:
    """An empty name does not stand for the current folder."""
    with pytest.raises(InputError, match=r"spill is .*expected the path of a folder"):
        MemoryEfficientContext(100, 10, spill=spill, ram_bytes=200)
