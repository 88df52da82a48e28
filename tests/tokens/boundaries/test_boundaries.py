"""Every place that is called safe is safe: tokenizing the whole text gives the same ids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from tests.helpers.tokenizer_families import (
    FAMILIES,
    LETTERS,
    PROSE,
    TEXTS,
    UNSPLIT,
    charsmap,
    family,
    split,
)
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
def test_the_places_that_are_safe(name: str, text: str) -> None:
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


def test_graphemes_that_swallow_a_character() -> None:
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


def merging(*merges: tuple[str, str], **settings: bool) -> Tokenizer:
    vocabulary = sorted({*LETTERS, *"é", "<0xC3>", "<0xA9>"} - {"é"})
    vocabulary += ["".join(pair) for pair in merges]
    model = models.BPE({token: i for i, token in enumerate(vocabulary)}, [*merges], **settings)
    return Tokenizer(model)


def of_parts(tokenizer: Tokenizer, normalizer: Any, pre_tokenizer: Any, *tokens: AddedToken) -> Any:
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_tokens(list(tokens))
    return tokenizer


PADDING = AddedToken("<t>", rstrip=True, normalized=False)
WORDS = pre_tokenizers.WhitespaceSplit()
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPACES = split(r"\s")
# A tokenizer and two parts of a text. One setting alone makes the ids of the parts depend on each
# other.
TRAPS: dict[str, tuple[Any, str, str]] = {
    "a token takes space behind it": (
        of_parts(merging(), normalizers.Prepend("="), WORDS, PADDING),
        "<t> ",
        "x",
    ),
    "a token takes space before it": (
        of_parts(merging(), None, SPACES, AddedToken("<t>", lstrip=True)),
        "a ",
        "<t>",
    ),
    "a token takes much space before it": (
        of_parts(merging(), None, SPACES, AddedToken("<t>", lstrip=True)),
        "a ",
        " <t>",
    ),
    "a token is a word of its own": (
        of_parts(merging(), None, SPACES, AddedToken("cat", single_word=True)),
        "a cat",
        "s",
    ),
    "a token is found after normalization": (
        of_parts(merging(), normalizers.Lowercase(), SPACES, AddedToken("A b", normalized=True)),
        "A",
        " b",
    ),
    "what ends is stripped": (of_parts(merging(), normalizers.Strip(), SPACES), "a ", "b"),
    "what follows is composed": (
        of_parts(merging(("x", "Ã")), normalizers.NFC(), BYTES),
        "x",
        "e\u0301",
    ),
    "what was before is composed": (
        of_parts(merging(("©", "x")), normalizers.NFC(), BYTES),
        "e\u0301",
        "x",
    ),
    "a vowel sign is composed": (of_parts(merging(), normalizers.NFC(), BYTES), "\u0bc6", "\u0bbe"),
    "bytes of unknown characters merge": (
        merging(("<0xA9>", "<0xC3>"), byte_fallback=True),
        "é",
        "é",
    ),
    "it is known as a whole": (merging(("a", "b"), ignore_merges=True), "a", "b"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_places_that_only_look_safe(name: str) -> None:
    tokenizer, left, right = TRAPS[name]
    lead, behind = ids(tokenizer, left[-1]), ids(tokenizer, left[-1] + right)
    assert ids(tokenizer, left) + behind[len(lead) :] != ids(tokenizer, left + right)
    assert not Boundaries(tokenizer).safe(left[-1] + right[0])
    assert Boundaries(tokenizer).obstacle is None or name == "it is known as a whole"


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
