"""Sharing beginnings changes how much is read, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.letters import Letters as ModelLetters
from tests.helpers.models import tiny, tokens
from tests.helpers.readers import PROSE, Letters, Reader
from transom import Context
from transom.evaluate.tasks import TASKS, Cell, Haystack, Material, Trial, sentences, task
from transom.evaluate.trials import answer_all, tokens_to_read

MATERIAL = Material(Letters(), Haystack(sentences(PROSE), Letters()), 0)


def trial_of(ids, index: int) -> Trial:
    return Trial(Cell(len(ids), 0.0, index), np.array(ids, dtype=np.int32), "12345")


def answers(context, trials, **options):
    found = []
    answer_all(context, trials, answer_tokens=5, on_answer=found.append, **options)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_a_reader_that_sees_everything_is_always_right(name):
    of = task(name)
    trials = [of.trial(MATERIAL, cell) for cell in of.cells(2500, (0.0, 0.5, 1.0), 2)]
    found = answers(Reader(), trials)
    assert len(found) == len(trials)
    assert all(one.trial.is_right(one.text) for one in found)


@pytest.mark.parametrize("name", TASKS)
def test_a_reader_that_sees_only_the_question_is_never_right(name):
    of = task(name)
    trials = [of.trial(MATERIAL, cell) for cell in of.cells(2500, (0.0, 0.5), 2)]
    found = answers(Reader("window:120"), trials)
    assert len(found) == len(trials)
    assert not any(one.trial.is_right(one.text) for one in found)


@pytest.mark.parametrize("name", ["passkey", "passkey-prose", "needle", "kv-recall"])
def test_a_reader_with_a_window_is_right_where_it_still_sees_the_answer(name):
    """The last 1,500 of 3,000 tokens are seen: answers at depth 0.75 and 1, not at 0 and 0.25."""
    of = task(name)
    trials = [of.trial(MATERIAL, cell) for cell in of.cells(3000, (0.0, 0.25, 0.75, 1.0), 3)]
    for one in answers(Reader("window:1500"), trials):
        assert one.trial.is_right(one.text) == (one.trial.cell.depth > 0.5)
        assert one.hot_bytes == 10 * 1500
        assert one.cold_bytes == len(one.trial.ids) - 1500


prompts = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=12)


@given(prompts, st.integers(1, 7))
def test_every_trial_reads_its_own_tokens_in_the_chunks_it_would_have_alone(ids, chunk):
    class Saying(Reader):
        def generate(self, max_new_tokens):
            return repr((self.ids, self.cuts))

    reader = Saying(chunk=chunk)
    trials = [trial_of(one, index) for index, one in enumerate(ids)]
    found = answers(reader, trials)
    assert sorted(one.trial.cell.trial for one in found) == list(range(len(ids)))
    for one in found:
        own = one.trial.ids.tolist()
        assert one.text == repr((own, list(range(0, len(own), chunk))))
    assert sum(reader.read) == tokens_to_read(trials, chunk) <= sum(map(len, ids))


def test_a_beginning_is_read_once():
    beginning = list(range(64))
    trials = [trial_of([*beginning, *[last] * 10], last) for last in range(5)]
    reader = Reader(chunk=16)
    answers(reader, trials)
    assert sum(reader.read) == 64 + 5 * 10
    assert reader.forks == [4]  # the last trial needs no copy
    assert tokens_to_read(trials, 16) == 114
    assert tokens_to_read([], 16) == 0


def test_stops_between_passes():
    trials = [trial_of([n] * 40, n) for n in range(3)]
    reader = Reader(chunk=8)
    found = answers(reader, trials, stop=lambda: len(reader.read) == 7)
    assert len(found) == 1
    assert sum(reader.read) == 40 + 2 * 8


def test_progress_counts_every_token():
    trials = [trial_of([n] * 20, n) for n in range(3)]
    passed = []
    answers(Reader(chunk=8), trials, on_progress=passed.append)
    assert sum(passed) == 60


@pytest.mark.parametrize("policy", ["full", "sinks:2,window=20", "chunked:24,chunk=6"])
def test_a_real_model_says_the_same_with_and_without_sharing(policy):
    model = tiny("llama")
    beginning = tokens(50).tolist()
    ends = [tokens(n, seed=n).tolist() for n in (3, 9, 9, 20)]
    trials = [trial_of(beginning[: 50 - i] + end, i) for i, end in enumerate(ends)]
    alone = {}
    for trial in trials:
        context = Context(model, ModelLetters(), policy, chunk=8)
        context.append(trial.ids)
        alone[trial.cell.trial] = context.generate(max_new_tokens=5)
    found = answers(Context(model, ModelLetters(), policy, chunk=8), trials)
    assert {one.trial.cell.trial: one.text for one in found} == alone
