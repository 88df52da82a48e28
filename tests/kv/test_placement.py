"""Which blocks are moved into which frames, against slow code."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transom.kv.recall.placement import exchange, exchanges, sights


@given(data=st.data())
def test_wanted_blocks_come_and_what_is_not_in_the_way_stays(data: st.DataObject) -> None:
    frames, last = data.draw(st.integers(1, 5)), data.draw(st.integers(5, 12))
    first = data.draw(st.integers(1, last - frames + 1))
    cold = range(first, last + 1)
    held = data.draw(st.lists(st.integers(1, last), min_size=frames, max_size=frames, unique=True))
    wanted = data.draw(st.lists(st.sampled_from(cold), max_size=frames, unique=True))
    before = [*held]
    moves = exchange(held, wanted, cold)
    assert {*wanted} <= {*held} <= {*cold}
    assert len({*held}) == frames
    replaced = [*before]
    for place, block in moves:
        assert block not in before
        replaced[place] = block
    assert replaced == held
    needed = max(len({*wanted} - {*before}), sum(block not in cold for block in before))
    assert len(moves) == needed


@given(data=st.data())
def test_what_is_seen_is_what_is_in_the_frames(data: st.DataObject) -> None:
    """Each block once at each stage, whether it was there or was fetched."""
    frames, heads, stages = (data.draw(st.integers(1, n)) for n in (4, 2, 5))
    held = [[*range(1, frames + 1)] for _ in range(heads)]
    wants = st.lists(st.integers(1, 20), max_size=frames, unique=True)
    wanted = [[[data.draw(wants) for _ in range(heads)]] for _ in range(stages)]
    [states], moves = exchanges([held], wanted, range(1, 21))
    assert moves == sorted(moves)
    first = data.draw(st.integers(0, stages))
    for head, ours in enumerate(states):
        theirs = {number: move for number, move in enumerate(moves) if move.head == head}
        found = sights(ours, range(first, stages + 1), theirs)
        assert [one.move for one in found] == sorted(one.move for one in found)
        assert len({(one.place, one.move) for one in found}) == len(found)
        got: dict[int, list[int]] = {}
        for place, move, at in found:
            block = moves[move].block if move >= 0 else abs(ours[0][place])
            assert move < 0 or moves[move].place == place
            for stage in at:
                got.setdefault(stage, []).append(block)
        for stage in range(first, stages + 1):
            expected = sorted(block for block in ours[stage] if block > 0)
            assert sorted(got.get(stage, [])) == expected
            if stage:
                assert expected == sorted(wanted[stage - 1][0][head])
