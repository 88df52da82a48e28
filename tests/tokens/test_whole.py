from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.helpers.cuts import split
from tests.helpers.tokenizer_families import FAMILIES, PROSE, TEXTS, UNSPLIT, family
from transom.errors import InputError
from transom.tokens import whole
from transom.tokens.whole import as_whole, in_chunks, text_pieces

FAST = {
    name: PreTrainedTokenizerFast(tokenizer_object=family(name)) for name in (*FAMILIES, *UNSPLIT)
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "LONG", 12)


def ids_of(pieces: list[str], tokenizer: Any, encode: Any) -> list[int]:
    return [i for ids in as_whole(iter(pieces), encode, tokenizer) for i in ids.tolist()]


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=12, deadline=None)
@given(text=TEXTS, chance=st.randoms(use_true_random=False))
def test_pieces_are_one_text(name: str, text: str, chance: random.Random) -> None:
    def encode(text: str) -> list[int]:
        ids: list[int] = FAST[name](text).input_ids
        return ids

    assert ids_of(split(text, chance), FAST[name], encode) == encode(text)


def test_special_ids_are_around_the_whole() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=family("gpt2"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> <s> $A <s>", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    special = tokenizer.convert_tokens_to_ids("<s>")

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text).input_ids
        return ids

    got = ids_of([PROSE, PROSE], tokenizer, encode)
    assert got == encode(PROSE + PROSE)
    assert got[:2] == [special] * 2
    assert got[-1] == special


def test_a_tokenizer_of_another_kind_gets_the_whole() -> None:
    seen = []

    def encode(text: str) -> list[int]:
        seen.append(text)
        return [len(text)]

    assert ids_of(["abc" * 9, "de", "f"], object(), encode) == [30]
    assert seen == ["abc" * 9 + "def"]


def test_a_tokenizer_that_rewrites_its_text_gets_the_whole() -> None:
    assert ids_of(["abc" * 9, "de"], family("gpt2"), lambda text: [len(text)]) == [29]


def test_a_long_text_is_not_held() -> None:
    taken = 0

    def pieces() -> Iterator[str]:
        nonlocal taken
        for _ in range(10_000):
            taken += 1
            yield "some words. "

    def encode(text: str) -> list[int]:
        assert len(text) < 100
        ids: list[int] = family("gpt2").encode(text).ids
        return ids

    arrays = as_whole(pieces(), encode, family("gpt2"))
    assert not len(next(arrays))
    assert len(next(arrays))
    assert taken < 2000
    rest = sum(len(ids) for ids in arrays)
    assert rest > 10_000


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        ("text", ["text"]),
        (iter(["a", "b"]), ["a", "b"]),
        (iter(["", "b"]), ["", "b"]),
        (iter([1, 2]), None),
        (iter([]), None),
        ([1, 2], None),
        (["a"], None),
        (None, None),
    ],
    ids=range(8),
)
def test_text_and_other_values(content: Any, pieces: list[str] | None) -> None:
    found, other = text_pieces(content)
    assert (None if found is None else list(found)) == pieces
    if found is None and isinstance(content, Iterator):
        assert list(other) in ([1, 2], [])
    elif found is None:
        assert other is content


def test_a_piece_that_is_not_text_is_refused() -> None:
    given: Any = ["a", 1]
    with pytest.raises(InputError, match="a piece of text is int"):
        ids_of(given, family("gpt2"), len)
    given = ["a" * 20, 1]
    with pytest.raises(InputError, match="cannot tokenize int"):
        ids_of(given, family("gpt2"), lambda text: family("gpt2").encode(text).ids)


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 12))
def test_chunks(lengths: list[int], size: int) -> None:
    arrays = [np.arange(length) for length in lengths]
    made = list(in_chunks(arrays, size))
    assert [i for ids in made for i in ids] == [i for ids in arrays for i in ids]
    assert [len(ids) for ids in made[:-1]] == [size] * (len(made) - 1)
    assert all(0 < len(ids) <= size for ids in made)
