"""A shuffle is a permutation of any length, and always the same one for a seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transom.corpus.shuffle import Shuffle


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 5))
def test_every_epoch_is_a_permutation(length: int, seed: int, epoch: int) -> None:
    start = epoch * length
    order = Shuffle(length, seed)(np.arange(start, start + length))
    assert sorted(order.tolist()) == [*range(length)]


@given(st.integers(1, 2**62), st.integers(0, 9), st.lists(st.integers(0, 2**62), max_size=8))
def test_any_place_is_computed_by_itself(length: int, seed: int, positions: list[int]) -> None:
    shuffle = Shuffle(length, seed)
    order = shuffle(positions).tolist()
    assert all(0 <= number < length for number in order)
    assert order == [int(shuffle([position])[0]) for position in positions]


def test_the_order_never_changes() -> None:
    assert Shuffle(10, seed=1)(range(20)).tolist() == [
        *(3, 5, 0, 8, 1, 6, 2, 4, 9, 7),
        *(7, 8, 6, 9, 4, 1, 5, 2, 3, 0),
    ]


def test_all_permutations_are_about_as_likely() -> None:
    """24 permutations, 1,000 draws of each: fewer than one run in a million is off by 20 %."""
    drawn = Counter(tuple(Shuffle(4, seed)(range(4)).tolist()) for seed in range(24_000))
    assert len(drawn) == 24
    assert all(800 < count < 1200 for count in drawn.values())


def test_neighbours_are_not_kept_together() -> None:
    order = Shuffle(100_000, seed=3)(np.arange(100_000))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.02
