"""The sketch of frequencies against exact counts."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from transom.memory.eviction.sketch import PERIOD, SMALLEST, FrequencySketch


@given(st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=200), st.integers(0, 500))
def test_it_never_estimates_too_little(keys, width):
    sketch = FrequencySketch()
    for key in keys[: len(keys) // 2]:
        sketch.count(key)
    sketch.widen(width)
    for key in keys[len(keys) // 2 :]:
        sketch.count(key)
    for key, seen in Counter(keys).items():
        assert min(15, seen) <= sketch.estimate(key) <= 15


def test_it_is_nearly_right_with_as_many_keys_as_columns():
    sketch, random = FrequencySketch(), Random(0)
    sketch.widen(4096)
    keys = [random.randrange(4096) for _ in range(12_000)]
    for key in keys:
        sketch.count(key)
    wrong = sum(sketch.estimate(key) != min(15, count) for key, count in Counter(keys).items())
    assert wrong < 0.006 * 4096


def test_counts_are_halved_after_a_period():
    sketch = FrequencySketch()
    for _ in range(9):
        sketch.count("often")
    for at in range(PERIOD * SMALLEST - 10):
        sketch.count(at % 3)
    assert sketch.estimate("often") == 9
    sketch.count(0)
    assert sketch.estimate("often") == 4
