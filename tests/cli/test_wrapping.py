"""Streamed text, wrapped to the width of the terminal."""

from __future__ import annotations

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from transom.cli.wrapping import WordWrapper


def shown(text: str, width: int) -> list[str]:
    written: list[str] = []
    wrapped = WordWrapper(written.append, lambda: width)
    for character in text:
        wrapped(character)
    wrapped.end()
    return "".join(written).split("\n")


@given(st.lists(st.text("ab \n\t漢\x1bé", max_size=9)), st.integers(1, 12))
def test_the_pieces_of_a_text_make_no_difference(pieces: list[str], width: int) -> None:
    written: list[str] = []
    wrapped = WordWrapper(written.append, lambda: width)
    for piece in pieces:
        wrapped(piece)
    wrapped.end()
    assert "".join(written).split("\n") == shown("".join(pieces), width)


@given(st.text("ab  \n", max_size=80), st.integers(3, 12))
def test_lines_break_between_words(text: str, width: int) -> None:
    lines = shown(text, width)
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    for line in lines:
        for at in range(width, len(line), width):  # places where the terminal breaks the line
            word = line[:at].rpartition(" ")[2] + line[at:].partition(" ")[0]
            assert len(word) > width


@given(st.text(st.characters(categories=["L", "Nd", "P", "Zs"]), max_size=50))
def test_text_that_fits_is_not_wrapped(text: str) -> None:
    assert "".join(shown(text, 1000)).rstrip() == text.rstrip()


def test_a_paragraph_is_wrapped_as_textwrap_does() -> None:
    text = "The quick brown fox jumps over the lazy dog, twice. " * 5
    assert shown(text, 30) == [*textwrap.wrap(text, 30), ""]


def test_scripts_without_spaces_break_anywhere() -> None:
    assert shown("漢字" * 5, 8) == ["漢字漢字", "漢字漢字", "漢字", ""]


def test_nothing_moves_the_cursor() -> None:
    assert shown("a\x1b[2J\x9bb\r\n", 20) == ["a\ufffd[2J\ufffdb", ""]
