"""Trials depend on the seed alone, have the length asked for, and contain the answer once."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.readers import PROSE, Letters
from transom.errors import InputError
from transom.evaluate.tasks import REVISION, TASKS, Cell, Haystack, Material, Trial, sentences, task

DEPTHS = (0.0, 0.3, 0.5, 1.0)
EACH = pytest.mark.parametrize("name", TASKS)


def material(seed: int = 0, text: str = PROSE) -> Material:
    return Material(Letters(), Haystack(sentences(text), Letters()), seed)


def said(trial: Trial) -> str:
    return Letters().decode(trial.ids)


@EACH
def test_the_same_seed_makes_the_same_trials(name):
    of = task(name)
    cells = of.cells(1500, DEPTHS, 2)
    first = [of.trial(material(3), cell) for cell in cells]
    again = [of.trial(material(3), cell) for cell in reversed(cells)][::-1]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.ids, b.ids)
        assert (a.cell, a.expected) == (b.cell, b.expected)
    other = [of.trial(material(4), cell) for cell in cells]
    assert [t.expected for t in other] != [t.expected for t in first]


def test_trials_are_those_of_this_revision():
    """Trials are the same on every machine and in every version: old records depend on that."""
    made = [task(name).trial(material(), Cell(1500, 0.5, 1)) for name in TASKS]
    digest = hashlib.sha256(b"".join(one.ids.tobytes() for one in made)).hexdigest()
    assert (REVISION, digest[:16]) == (2, "b34103c9bf69b216"), "raise REVISION"


@EACH
@given(length=st.integers(700, 3000), depth=st.sampled_from(DEPTHS), trial=st.integers(0, 5))
def test_a_prompt_fills_its_length_and_holds_the_answer_before_the_question(
    name, length, depth, trial
):
    cell = Cell(length, depth, trial)
    made = task(name).trial(material(), cell)
    text = said(made)
    assert length - 300 < len(made.ids) <= length  # it ends at whole sentences
    assert made.cell == cell
    assert text.count(made.expected) == (2 if name.startswith("passkey") else 1)
    assert text.rpartition("\n\n")[2].startswith("Answer: ")
    assert made.expected not in text.rpartition("\n\n")[2]


@pytest.mark.parametrize("name", ["passkey", "passkey-prose", "needle", "kv-recall", "kv-lines"])
def test_depth_is_where_the_answer_stands(name):
    for depth in (0.0, 0.25, 0.5, 0.75, 1.0):
        made = task(name).trial(material(), Cell(3000, depth, 0))
        text = said(made)
        place = text.index(made.expected) / len(text)
        assert place == pytest.approx(depth, abs=0.1)


def test_the_pairs_are_json_and_keys_are_unique():
    made = task("kv-recall").trial(material(), Cell(9000, 0.5, 0))
    text = said(made)
    pairs = json.loads(text[text.index("{") : text.index("}") + 1])
    listed = re.findall(r'"([\w ]+)": ', text[: text.index("}")])
    assert len(set(listed)) == len(listed) == len(pairs) > 300
    [asked] = re.findall(r'What is the value of "([\w ]+)"', text)
    assert str(pairs[asked]) == made.expected


def test_more_keys_than_names_are_numbered():
    of = task("kv-lines")
    text = said(of.trial(material(), Cell(60_000, 1.0, 0)))
    keys = re.findall(r"^([\w ]+): \d+$", text, re.MULTILINE)
    assert len(set(keys)) == len(keys) > 30 * 48


def test_nine_turns_and_four_questions_about_the_first():
    of = task("multi-turn")
    cells = of.cells(3000, DEPTHS, 2)
    assert [cell.trial for cell in cells] == list(range(8))
    texts = [said(of.trial(material(), cell)) for cell in cells]
    for text in texts:
        assert text.startswith("My name is ")
        assert text.count("Here is page") == 7
        for page in range(1, 8):
            assert f"Here is page {page} of" in text
    openings = [text[: text.index("Please remember")] for text in texts]
    assert len(set(openings[:4])) == len(set(openings[4:])) == 1
    assert len({text.rpartition("Answer: ")[2] for text in texts}) == 4


def test_eight_needles_are_in_one_text_and_each_is_asked():
    of = task("needles")
    cells = of.cells(3000, DEPTHS, 2)
    assert len(cells) == 16
    made = [of.trial(material(), cell) for cell in cells[:8]]
    texts = [said(trial).partition("What is")[0] for trial in made]
    listed = re.findall(r"The special number of (\w+) is (\d+)\.", texts[0])
    assert len({city for city, _ in listed}) == 8
    assert [number for _, number in listed] == [trial.expected for trial in made]
    for cell, (_, number) in zip(cells, listed, strict=False):
        assert texts[0].index(number) / len(texts[0]) == pytest.approx(cell.depth, abs=0.1)


def test_needles_of_one_trial_share_their_text_and_others_have_their_own():
    of = task("needle")
    first, second, other = (
        said(of.trial(material(), cell))
        for cell in (Cell(2000, 0.5, 0), Cell(2000, 1.0, 0), Cell(2000, 0.5, 1))
    )
    assert first[:700] == second[:700] != other[:700]


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (" 12345.", "12345"),
        ("The key is 12345, and 9", "12345"),
        (" 12345678", "12345678"),
        (" none", None),
        ("", None),
    ],
)
def test_an_answer_counts_only_if_it_is_exact(answer, given):
    trial = Trial(Cell(1, 0.0, 0), np.zeros(0, np.int32), "12345")
    assert trial.given(answer) == given
    assert trial.is_right(answer) == (given == "12345")


@pytest.mark.parametrize("name", ["passkey-prose", "needle", "multi-turn"])
def test_a_text_that_is_too_short_is_refused(name):
    with pytest.raises(InputError, match=r"has \d+ tokens, and .* give a longer one"):
        task(name).trial(material(text="Too short. " * 20), Cell(5000, 0.5, 0))
    with pytest.raises(InputError, match="has 0 tokens"):
        task(name).trial(material(text=""), Cell(5000, 0.5, 0))


@EACH
def test_a_length_that_is_too_short_is_refused(name):
    with pytest.raises(InputError, match="too short for its question"):
        task(name).trial(material(), Cell(20, 0.5, 0))


def test_unknown_tasks_list_the_known():
    with pytest.raises(
        InputError, match="unknown task 'neddle'; known tasks: passkey, passkey-prose, needle"
    ):
        task("neddle")


@given(st.text(alphabet="aB .!?\n\"'x", max_size=2000))
def test_sentences_make_up_the_text(text):
    pieces = sentences(text)
    assert "".join(pieces) == text
    assert all(pieces)


def test_sentences_without_ends_are_cut_between_words():
    pieces = sentences("word " * 500)
    assert len(pieces) > 5
    assert max(map(len, pieces)) <= 301
    assert all(piece.strip().split(" ")[0] == "word" for piece in pieces)
    assert len(sentences("x" * 1000)) == 4


@given(st.integers(0, 400), st.floats(0, 1))
def test_excerpts_are_neighbours_and_as_long_as_can_be(tokens, place):
    haystack = Haystack(sentences(PROSE), Letters())
    text = "".join(haystack.excerpt(tokens, place).pieces)
    assert text in PROSE
    assert len(text) <= tokens
    rest = PROSE[PROSE.index(text) + len(text) :]
    assert not text or not rest or len(text) + len(sentences(rest)[0]) > tokens


def test_filler_starts_over():
    haystack = Haystack(["ab", "cd"], Letters(), repeats=True)
    assert "".join(haystack.excerpt(11).pieces) == "abcdabcdab"
    with pytest.raises(InputError, match="has 4 tokens, and 11"):
        Haystack(["ab", "cd"], Letters()).excerpt(11)
