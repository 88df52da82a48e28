"""What is derived from an expression, compared with the matches of the regex engine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from tests.helpers.tokenizer_families import CL100K, LLAMA3, O200K
from transom.tokens.boundaries.parse import Unprovable
from transom.tokens.boundaries.pattern import SplitPattern
from transom.tokens.boundaries.splits import GPT2

EXPRESSIONS = [
    GPT2,
    LLAMA3,
    CL100K,
    O200K,
    "ab",
    "a|ab|abc",
    "(?:ab)*c",
    "(?:ab?)+",
    "a*?b",
    "[ab]{2}",
    "a{2,}|b{,2}c",
    "a{2}?b",
    "a?+b",
    "(?:ab)?+a",
    "b(?!a)",
    "b(?:(?!a)c?)",
    "(?i:ss|k)",
    r"[^a\]b\[]+",
    r"[[:upper:]a-b]",
    r"\p{^L}|\x62\u0061",
    r"a$",
]
ALPHABET = "abcASs'kKßſ .1[]\n\u212a漢"
PATTERNS = {expression: SplitPattern(expression) for expression in EXPRESSIONS}


def matches(expression: str, text: str) -> list[tuple[int, int]]:
    """The spans of all matches of the expression, in order."""
    split = pre_tokenizers.Split(Regex(expression), "removed", invert=True)
    return [span for _, span in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(ALPHABET, max_size=12))
def test_matches_on_one_side_do_not_depend_on_the_other(expression: str, text: str) -> None:
    whole = matches(expression, text)
    for at in range(1, len(text)):
        if not PATTERNS[expression].joins(text[at - 1], text[at]):
            behind = [(start + at, stop + at) for start, stop in matches(expression, text[at:])]
            assert matches(expression, text[:at]) + behind == whole, text[at:]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(ALPHABET, max_size=12))
def test_characters_that_are_always_or_never_matched(expression: str, text: str) -> None:
    covered = {at for start, stop in matches(expression, text) for at in range(start, stop)}
    for at, character in enumerate(text):
        known = PATTERNS[expression].matches(character)
        assert known is None or known == (at in covered), character


def test_matches_are_known_for_common_expressions() -> None:
    pattern = SplitPattern(GPT2)
    assert not pattern.joins("d", " ")
    assert not pattern.joins(".", "\n")
    assert all(pattern.matches(c) for c in "a1. \n漢")
    assert SplitPattern("[a-y]+").matches("z") is False


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ("^a", r"\^a"),
        (r"a\b", r"\\b"),
        ("(?<=a)b", r"\(\?<=a"),
        (r"(a)\1", r"\\1"),
        ("a(?!bc)", "bc"),
        ("(?>a)b", r"\(\?>a"),
        ("a{0}", r"\{0\}"),
        (r"\Xa", r"\\Xa"),
        ("a)", r"\)"),
        ("[a", r"\[a"),
        ("(?:a", ""),
        ("(?=a)*b", "b"),
    ],
)
def test_a_construct_that_is_not_understood_is_named(expression: str, unknown: str) -> None:
    with pytest.raises(Unprovable, match=f"{unknown}.*in the regular expression"):
        SplitPattern(expression)


def test_an_expression_that_may_match_nothing_proves_nothing() -> None:
    pattern = SplitPattern("a*")
    assert pattern.joins("b", "c")
    assert pattern.matches("b") is None
