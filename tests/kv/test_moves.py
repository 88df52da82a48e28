"""Which blocks are moved into which frames, beside the obvious."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transom.kv.recall.moves import Move, exchange, sights


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
    """Each block at each stage once, wherever it comes from."""
    frames, heads, stages = (data.draw(st.integers(1, n)) for n in (4, 2, 5))
    held = [[*range(1, frames + 1)] for _ in range(heads)]
    states, moves = [[[*one] for one in held]], []
    for stage in range(1, stages + 1):
        state = []
        for head in range(heads):
            wanted = data.draw(st.lists(st.integers(1, 20), max_size=frames, unique=True))
            came = exchange(held[head], wanted, range(1, 21))
            moves += [Move(stage, 0, head, place, block) for place, block in came]
            state.append([block if block in wanted else -block for block in held[head]])
        states.append(state)
    first = data.draw(st.integers(0, stages))
    got: dict[tuple[int, int], list[int]] = {}
    slots: set[tuple[int, int]] = set()
    for row, head, place, move, slot, at in sights(
        [[s] for s in states], range(first, stages + 1), moves
    ):
        assert row == 0
        assert (head, slot) not in slots
        slots.add((head, slot))
        block = moves[move].block if move >= 0 else abs(states[0][head][place])
        for stage in at:
            got.setdefault((stage, head), []).append(block)
    for stage in range(first, stages + 1):
        for head in range(heads):
            expected = sorted(block for block in states[stage][head] if block > 0)
            assert sorted(got.get((stage, head), [])) == expected
