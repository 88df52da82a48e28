"""A growing text has the ids of the whole, whatever pieces it came in."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.helpers.cuts import split
from tests.helpers.tokenizer_families import FAMILIES, PROSE, TEXTS, UNSPLIT, family
from transom.errors import InputError
from transom.tokens import Encoder, IncrementalTokenizer, TokenStream, tokenize_text
from transom.tokens.text import tokenize_text_with_offsets
from transom.tokens.tokenizer import vocabulary_of

SPLITS = 10  # per text: ten thousand over 40 texts and all families
ENCODERS: dict[str, Encoder] = {}


def encoder_of(name: str) -> Encoder:
    if name not in ENCODERS:
        ENCODERS[name] = Encoder(family(name))
    return ENCODERS[name]


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("name", [*FAMILIES, *UNSPLIT])
@settings(max_examples=40, deadline=None)
@given(text=TEXTS, chance=st.randoms(use_true_random=False))
def test_incremental_equals_whole(name: str, text: str, chance: random.Random) -> None:
    expected = whole(family(name), text)
    for _ in range(SPLITS):
        pieces = split(text, chance)
        growing, stream = IncrementalTokenizer(encoder_of(name)), TokenStream(encoder_of(name))
        streamed: list[int] = []
        for piece in pieces:
            growing.append(piece)
            streamed += [i for ids in stream.feed(piece) for i in ids.tolist()]
        assert growing.ids.tolist() == streamed + stream.end().tolist() == expected, pieces


@pytest.mark.parametrize("name", [*FAMILIES, *UNSPLIT])
@settings(max_examples=15, deadline=None)
@given(text=TEXTS, chance=st.randoms(use_true_random=False))
def test_after_every_piece(name: str, text: str, chance: random.Random) -> None:
    growing = IncrementalTokenizer(encoder_of(name))
    mirror: list[int] = []
    so_far = ""
    for piece in split(text, chance):
        settled = growing[: growing.settled].tolist()
        kept = growing.append(piece)
        so_far += piece
        mirror[kept:] = growing[kept:].tolist()
        assert mirror == whole(family(name), so_far)
        assert growing[: len(settled)].tolist() == settled
        assert len(growing) == len(mirror)


@pytest.mark.parametrize("name", [*FAMILIES, *UNSPLIT])
@settings(max_examples=15, deadline=None)
@given(text=TEXTS, chance=st.randoms(use_true_random=False))
def test_blocks_of_any_size(name: str, text: str, chance: random.Random) -> None:
    encoder = Encoder(family(name), Small(encoder_of(name).reference, chance.randint(1, 40)))
    expected = family(name).encode(text, add_special_tokens=False)
    arrays = list(tokenize_text(encoder, split(text, chance)))
    assert all(len(ids) and ids.dtype == encoder.dtype for ids in arrays)
    assert [i for ids in arrays for i in ids.tolist()] == expected.ids


class Small:
    """The reference backend, with small blocks."""

    def __init__(self, reference: Any, block: int) -> None:
        self.block = block
        self.encode = reference.encode


@pytest.mark.parametrize("name", FAMILIES)
def test_offsets_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PROSE * 2
    encoder = encoder_of(name)
    monkeypatch.setattr(type(encoder.reference), "block", 50)
    expected = family(name).encode(text, add_special_tokens=False)
    made = list(tokenize_text_with_offsets(encoder, [text[:77], text[77:200], text[200:]]))
    assert len(made) > 5 or name.startswith("unigram")
    assert np.concatenate([ids for ids, _ in made]).tolist() == expected.ids
    offsets = np.concatenate([offsets for _, offsets in made])
    assert [tuple(pair) for pair in offsets.tolist()] == expected.offsets


def test_a_text_that_is_not_cut() -> None:
    [ids] = tokenize_text(family("gpt2"), PROSE)
    assert ids.tolist() == whole(family("gpt2"), PROSE)
    assert not list(tokenize_text(family("gpt2"), ""))
    assert not list(tokenize_text(family("gpt2"), ["", ""]))


def test_slices_and_ids() -> None:
    growing = IncrementalTokenizer(encoder_of("gpt2"))
    growing.append(PROSE)
    growing.append("and then so")
    ids = whole(family("gpt2"), PROSE + "and then so")
    assert 0 < growing.settled < len(growing) == len(ids)
    for part in (slice(None), slice(3, 9), slice(-4, None), slice(-9, -1), slice(None, None, -2)):
        assert growing[part].tolist() == ids[part]
    assert growing[0] == ids[0]
    assert growing[-1] == ids[-1]
    assert growing[growing.settled] == ids[growing.settled]
    assert list(growing) == ids  # type: ignore[call-overload]
    with pytest.raises(IndexError, match=f"id {len(ids)} was asked for; there are {len(ids)}"):
        growing[len(ids)]
    assert growing.nbytes < 4 * len(ids) * growing.ids.itemsize


def test_ids_that_were_returned_do_not_change() -> None:
    growing = IncrementalTokenizer(encoder_of("gpt2"))
    growing.append("some wor")
    early = growing.ids
    before = early.tolist()
    growing.append("ds " * 100)
    assert early.tolist() == before


def test_little_is_held_back() -> None:
    growing = IncrementalTokenizer(encoder_of("gpt2"))
    for _ in range(100):
        growing.append("Some words, and more of them. ")
        assert len(growing) - growing.settled < 8
    for letter in PROSE * 3:
        growing.append(letter)
        assert len(growing) - growing.settled < 80  # some of the text has no safe place to cut
    growing.append(" word by word")
    assert len(growing) - growing.settled < 8
    for letter in " letter by letter":
        growing.append(letter)
        assert len(growing) - growing.settled < 12


def test_a_copy_is_independent() -> None:
    stream = TokenStream(encoder_of("gpt2"))
    stream.feed("one tw")
    twin = stream.copy()
    assert twin.encoder is stream.encoder
    stream.feed("o")
    twin.feed("enty")
    assert stream.end().tolist() == whole(family("gpt2"), " two")
    assert twin.end().tolist() == whole(family("gpt2"), " twenty")


def test_truncation_and_padding_of_the_original_do_not_matter() -> None:
    tokenizer = Tokenizer.from_str(family("gpt2").to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=5)
    growing = IncrementalTokenizer(tokenizer)
    growing.append(PROSE)
    assert growing.ids.tolist() == whole(family("gpt2"), PROSE)
    assert tokenizer.truncation["max_length"] == 3


def test_added_tokens_whose_ids_a_copy_would_change() -> None:
    tokenizer = Tokenizer(family("gpt2").model)
    tokenizer.add_tokens(["<s>"])
    tokenizer.model = family("unigram").model  # a smaller vocabulary: the added id stays as it was
    growing = IncrementalTokenizer(tokenizer)
    growing.append("a<s>b")
    assert growing.ids.tolist() == whole(tokenizer, "a<s>b")
    assert growing[-2] == family("gpt2").get_vocab_size(with_added_tokens=False)
    tokenizer.enable_truncation(2)
    with pytest.raises(InputError, match="truncates or pads, and its added tokens"):
        IncrementalTokenizer(tokenizer)


def test_tokens_added_later_do_not_matter() -> None:
    tokenizer = Tokenizer.from_str(family("gpt2").to_str())
    growing = IncrementalTokenizer(tokenizer)
    tokenizer.add_tokens(["some"])
    growing.append("for some time")
    assert growing.ids.tolist() == whole(family("gpt2"), "for some time")


def test_special_tokens_as_text() -> None:
    tokenizer = Tokenizer.from_str(family("gpt2").to_str())
    tokenizer.encode_special_tokens = True
    growing = IncrementalTokenizer(tokenizer)
    growing.append("a<")
    growing.append("s>b")
    assert growing.ids.tolist() == whole(tokenizer, "a<s>b")
    assert growing.ids.tolist() != whole(family("gpt2"), "a<s>b")


def test_tokenizers_of_transformers() -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=family("gpt2"))
    growing = IncrementalTokenizer(fast)
    growing.append(PROSE)
    assert growing.ids.tolist() == fast(PROSE, add_special_tokens=False).input_ids
    assert vocabulary_of(fast) == vocabulary_of(growing.encoder) == growing.encoder.vocabulary


@pytest.mark.parametrize("wrong", [None, "gpt2", object()], ids=["none", "a name", "an object"])
def test_a_value_that_is_not_a_tokenizer_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"cannot tokenize with .*; expected a tokenizers"):
        IncrementalTokenizer(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (b"bytes", "cannot tokenize bytes; expected text"),
        (["a"], "cannot tokenize list"),
        ("ok \ud800", r"half a character in it, '\\ud800' at 3"),
    ],
    ids=str,
)
def test_a_value_that_is_not_text_is_refused(wrong: Any, message: str) -> None:
    growing = IncrementalTokenizer(encoder_of("gpt2"))
    growing.append("before ")
    with pytest.raises(InputError, match=message):
        growing.append(wrong)
    growing.append("after")
    assert growing.ids.tolist() == whole(family("gpt2"), "before after")


@pytest.mark.model
@settings(max_examples=100, deadline=None)
@given(text=TEXTS, chance=st.randoms(use_true_random=False))
def test_the_real_tokenizer(text: str, chance: random.Random, smollm2: Any) -> None:
    tokenizer = smollm2.tokenizer.backend_tokenizer
    if "smollm2" not in ENCODERS:
        ENCODERS["smollm2"] = Encoder(tokenizer)
    for _ in range(SPLITS):
        growing = IncrementalTokenizer(ENCODERS["smollm2"])
        for piece in split(text, chance):
            growing.append(piece)
        assert growing.ids.tolist() == whole(tokenizer, text)
