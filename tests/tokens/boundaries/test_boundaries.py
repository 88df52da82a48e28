"""Every place that is called safe is, by tokenizing the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.tokens.families import FAMILIES, PROSE, TEXTS, UNSPLIT, charsmap, family
from transom.tokens.boundaries import Boundaries

BOUNDARIES: dict[str, Boundaries] = {}


def boundaries_of(name: str) -> Boundaries:
    if name not in BOUNDARIES:
        BOUNDARIES[name] = Boundaries(family(name))
    return BOUNDARIES[name]


def ids(tokenizer: Any, text: str) -> list[int]:
    encoded: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return encoded


def check(tokenizer: Any, boundaries: Boundaries, text: str) -> int:
    whole = ids(tokenizer, text)
    places = [at for at in range(1, len(text)) if boundaries.safe(text[at - 1 : at + 1])]
    for at in places:
        lead, behind = ids(tokenizer, text[at - 1]), ids(tokenizer, text[at - 1 :])
        assert behind[: len(lead)] == lead
        assert ids(tokenizer, text[:at]) + behind[len(lead) :] == whole, (text[:at], text[at:])
    return len(places)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_what_is_safe(name: str, text: str) -> None:
    check(family(name), boundaries_of(name), text)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_are_safe_places(name: str) -> None:
    assert boundaries_of(name).obstacle is None
    few = name == "unigram, SentencePiece's own"  # at the ends of lines
    assert check(family(name), boundaries_of(name), PROSE) > (5 if few else 20)


@pytest.mark.parametrize("name", UNSPLIT)
def test_where_nothing_is_safe(name: str) -> None:
    boundaries = boundaries_of(name)
    assert boundaries.obstacle is not None
    assert UNSPLIT[name][1] in boundaries.obstacle
    assert not check(family(name), boundaries, PROSE)
    assert boundaries.first(PROSE) == boundaries.last(PROSE) == 0


def test_graphemes_that_another_character_is_lost_in() -> None:
    for changes, lost in [
        ({}, ""),
        ({"\u0600a": "b"}, "a"),
        ({"\u0601": "x"}, "ab"),
        ({"\u0601\u0602b": ""}, "b"),
    ]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Precompiled(charsmap({"\n": " ", **changes}))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        boundaries = Boundaries(tokenizer)
        assert [letter for letter in "ab" if not boundaries.safe(letter + "\n")] == [*lost]
        assert not boundaries.safe("\r\n")
        assert not boundaries.safe("a ")


def test_a_step_written_in_python() -> None:
    class Custom:
        def pre_tokenize(self, text: Any) -> None: ...

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Custom())
    assert Boundaries(tokenizer).obstacle == "a PreTokenizer written in Python"


@given(st.text("ab .\n", max_size=30), st.integers(1, 30), st.integers(1, 30))
def test_first_and_last(text: str, start: int, stop: int) -> None:
    boundaries = boundaries_of("gpt2")
    safe = [at for at in range(1, len(text)) if boundaries.safe(text[at - 1 : at + 1])]
    assert boundaries.first(text, start) == next((at for at in safe if at >= start), 0)
    assert boundaries.last(text, start) == next((at for at in safe[::-1] if at >= start), 0)
    before = [at for at in safe if start <= at < min(stop, len(text))]
    assert boundaries.last(text, start, min(stop, len(text))) == max(before, default=0)


@pytest.mark.model
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_the_real_tokenizer(text: str, smollm2: Any) -> None:
    tokenizer = smollm2.tokenizer.backend_tokenizer
    if "smollm2" not in BOUNDARIES:
        BOUNDARIES["smollm2"] = Boundaries(tokenizer)
    check(tokenizer, BOUNDARIES["smollm2"], text)
