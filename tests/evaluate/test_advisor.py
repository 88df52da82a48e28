"""Which sizes are tried, which one is chosen, and what the advice says about its neighbours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom import Sinks, Window
from transom.cli.advise import in_words
from transom.errors import InputError, PolicyError
from transom.evaluate.advisor import Wish, advise, candidates
from transom.evaluate.advisor.candidates import sized
from transom.evaluate.rows import LossRow, RecallRow, SpeedRow
from transom.evaluate.summary import summaries
from transom.policies import ModelShape, kv_bytes_bound

SHAPE = ModelShape(layers=30, heads=9, kv_heads=3, head_dim=64)
TOKEN = SHAPE.token_bytes
SINKS = "sinks:4,window={}"


def sizes(found) -> list[int]:
    return [one.size for one in found if one.family != "full"]


def test_the_placeholder_gets_the_number_that_gives_the_size():
    assert sized(SINKS, 1024) == Sinks(4, window=1020)
    assert sized("window:{}", 1024) == Window(1024)
    assert sized("chunked:{},chunk=128", 512).capacity == 512
    assert sized("hierarchical:{},global=256", 1024).capacity == 1024
    assert sized("hierarchical:{},global=2048", 1024).capacity == 3072  # no room for both parts
    with pytest.raises(InputError, match=r"'sinks' has no \{\}; expected a policy with \{\}"):
        sized("sinks", 1024)
    with pytest.raises(PolicyError, match="unknown policy"):
        sized("snks:{}", 1024)


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (150 * TOKEN, [128, 256]),
        (600 * TOKEN, [128, 256, 512, 1024]),
        (2000 * TOKEN, [256, 512, 1024, 2048]),
        (10**12, [1024, 2048, 4096]),
    ],
)
def test_sizes_stand_around_what_fits(each, expected):
    found = candidates([SINKS], SHAPE, Wish(20 * each, sessions=20), 4096)
    assert sizes(found) == expected
    assert str(found[-1].policy) == "full"
    assert found[-1].bytes == 4096 * TOKEN
    for one in found[:-1]:
        assert one.bytes == kv_bytes_bound(one.policy, SHAPE)
        assert one.fits == (one.bytes <= each)


def test_sizes_end_at_the_length_and_at_what_the_model_was_trained_on():
    wish = Wish(10**12)
    assert max(sizes(candidates([SINKS], SHAPE, wish, 3000))) == 2048
    assert max(sizes(candidates([SINKS], SHAPE, wish, 10**6, trained=8192))) == 8192
    with pytest.raises(InputError, match="too short to choose by; expected at least 128"):
        candidates([SINKS], SHAPE, wish, 100)


def test_a_budget_without_any_fit_is_refused_and_names_one_that_fits():
    least = kv_bytes_bound(Sinks(4, window=124), SHAPE)
    with pytest.raises(InputError, match=f"take {least:,}; expected at least {20 * least:,}, or"):
        candidates([SINKS], SHAPE, Wish(10**6, sessions=20), 4096)


@pytest.mark.parametrize("wrong", [{"memory": 0}, {"sessions": 0}, {"latency": 0.0}])
def test_invalid_limits_are_refused(wrong):
    with pytest.raises(InputError):
        Wish(**{"memory": 1, **wrong})


def measured(tried, figures):
    """Summaries of candidates with given losses, right answers of ten, and seconds per token."""
    rows = []
    for one, (loss, right, seconds) in zip(tried, figures, strict=True):
        policy = str(one.policy)
        rows.append(LossRow(policy, 4096, loss, ((0, 4096, loss),), 1.0, one.bytes, 0))
        rows.append(SpeedRow(policy, 4096, 1.0, seconds, one.bytes, 0))
        for trial in range(10):
            given = ("12345", " 12345", trial < right, one.bytes, 0)
            rows.append(RecallRow(policy, "needles", 4096, 0.5, trial, 4000, *given))
    return summaries(rows)


def advice_of(figures, latency=None):
    wish = Wish(20 * 1100 * TOKEN, sessions=20, latency=latency)
    tried = candidates([SINKS], SHAPE, wish, 4096)
    assert sizes(tried) == [256, 512, 1024, 2048]
    return advise(wish, tried, measured(tried, figures))


FULL = (2.40, 9, 0.09)


def test_the_smallest_of_those_nearly_as_good_as_the_best_is_chosen():
    advice = advice_of([(2.60, 3, 0.05), (2.51, 8, 0.05), (2.50, 8, 0.05), (2.30, 9, 0.05), FULL])
    assert advice.best.policy == "sinks:4,window=508"
    assert advice.larger.policy == "sinks:4,window=1020"
    assert advice.smaller.policy == "sinks:4,window=252"
    assert advice.best.sessions == 20 * 1100 * TOKEN // advice.best.bytes
    obstacles = {one.policy: one.obstacle for one in advice.options if one.obstacle}
    assert obstacles == {"sinks:4,window=2044": "too large", "full": "grows"}


def test_answers_count_more_than_loss():
    advice = advice_of([(2.40, 3, 0.05), (2.50, 5, 0.05), (2.60, 9, 0.05), (2.30, 9, 0.05), FULL])
    assert advice.best.policy == "sinks:4,window=1020"


def test_a_policy_that_is_too_slow_is_not_chosen():
    figures = [(2.60, 3, 0.04), (2.51, 8, 0.05), (2.50, 9, 0.07), (2.30, 9, 0.05), FULL]
    assert advice_of(figures, latency=0.06).best.policy == "sinks:4,window=508"
    advice = advice_of(figures, latency=0.01)
    assert advice.best is advice.larger is advice.smaller is None
    assert in_words(advice) == [
        "No policy that fits takes 10 ms per token or less. The fastest, sinks:4,window=252, takes "
        "40 ms. Allow that time, or use a smaller model or a faster machine."
    ]


@pytest.mark.parametrize("held", ["hot_bytes", "cold_bytes"])
def test_measured_bytes_count_if_they_exceed_the_computed_ones(held):
    wish = Wish(1100 * TOKEN)
    tried = candidates([SINKS], SHAPE, wish, 4096)
    figures = [(2.5, 9, 0.05)] * len(tried)
    swollen = [
        type(row)(**{**vars(row), held: 2000 * TOKEN}) if row.hot_bytes > 900 * TOKEN else row
        for one in measured(tried, figures)
        for row in (one.loss, *one.recall, *one.speeds)
    ]
    advice = advise(wish, tried, summaries(swollen))
    by_policy = {one.policy: one for one in advice.options}
    assert by_policy["sinks:4,window=1020"].obstacle == "too large"


def test_a_candidate_without_measurements_is_refused():
    wish = Wish(1100 * TOKEN)
    tried = candidates([SINKS], SHAPE, wish, 4096)
    with pytest.raises(InputError, match="sinks:4,window=252 was not measured"):
        advise(wish, tried, [])


def test_the_advice_in_words():
    said = in_words(
        advice_of([(2.60, 3, 0.05), (2.51, 8, 0.05), (2.50, 8, 0.05), (2.30, 9, 0.06), FULL])
    )
    assert said == [
        "Use sinks:4,window=508: 23.7 MB a session, 42 of which fit. Against full attention it "
        "has +0.110 nats a token of loss, and answers 8 of 10 questions instead of 9; a "
        "token takes 50 ms.",
        "The next larger, sinks:4,window=1020, takes 47.3 MB a session: -0.010 nats a token "
        "of loss against this one, and answers 8 of 10 questions instead of 8; 50 ms a token.",
        "The next smaller, sinks:4,window=252, takes 11.9 MB a session: +0.090 nats a token "
        "of loss against this one, and answers 3 of 10 questions instead of 8; 50 ms a token.",
    ]


figures = st.tuples(st.floats(1, 3), st.integers(0, 10), st.floats(0.01, 0.1))


@given(st.tuples(*[figures] * 5))
def test_no_policy_that_fits_answers_much_more_than_the_chosen_one(found):
    advice = advice_of(found, latency=0.06)
    possible = [one for one in advice.options if not one.obstacle]
    assert (advice.best is None) == (not possible)
    if advice.best is not None:
        assert advice.best in possible
        assert advice.best.recall.rate >= max(one.recall.rate for one in possible) - 0.05
    assert advice.to_json()["recommended"] == (advice.best and advice.best.policy)
