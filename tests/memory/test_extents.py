"""Free stretches, compared with a set of bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from transom.memory.extents import Extents

LENGTH = 40
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take_scattered", "take_at", "give"]),
        st.integers(0, LENGTH - 1),
        st.integers(1, 9),
    ),
    max_size=60,
)


def stretches(free: set[int]) -> list[tuple[int, int]]:
    """Starts and sizes of the runs in a set."""
    found: list[tuple[int, int]] = []
    for at in sorted(free):
        if found and sum(found[-1]) == at:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((at, 1))
    return found


@settings(deadline=None)
@given(calls=CALLS)
def test_free_stretches_match_a_set(calls):
    extents, free = Extents(), set(range(LENGTH))
    taken: list[tuple[int, int]] = []
    extents.give(0, LENGTH)
    for call, start, size in calls:
        runs = stretches(free)
        got: list[tuple[int, int]] = []
        if call == "take":
            # The smallest stretch that is large enough; among equal ones the first.
            fitting = min(((n, at) for at, n in runs if n >= size), default=None)
            assert extents.take(size) == (None if fitting is None else fitting[1])
            got = [] if fitting is None else [(fitting[1], size)]
        elif call == "take_scattered":
            most = sorted((n for _, n in runs), reverse=True)[:3]
            found = extents.take_scattered(size, 3)
            assert (found is None) == (sum(most) < size)
            got = found or []
            assert not got or sum(n for _, n in got) == size
        elif call == "take_at":
            there = set(range(start, start + size)) <= free
            assert extents.take_at(start, size) == there
            got = [(start, size)] * there
        elif taken:
            at, n = taken.pop(start % len(taken))
            extents.give(at, n)
            free |= set(range(at, at + n))
        for at, n in got:
            assert set(range(at, at + n)) <= free
            free -= set(range(at, at + n))
        taken += got
        runs = stretches(free)
        assert list(extents) == runs
        assert extents.total == len(free)
        assert extents.largest == max((n for _, n in runs), default=0)
        for at in range(LENGTH + 1):
            assert extents.size_ending_at(at) == next((n for s, n in runs if s + n == at), 0)


def test_bytes_of_a_stretch():
    extents = Extents()
    extents.give(0, 64 * 20_000)
    for start in range(0, 64 * 20_000, 128):
        assert extents.take_at(start, 64)
    assert extents.nbytes < 40 * 10_000
