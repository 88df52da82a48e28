"""Rows, compared with a dictionary."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from transom.memory.record_table import NOT_THERE, RecordTable

# Keys that collide: multiples of the size of a table, and their neighbours.
KEYS = st.integers(1, 40) | st.integers(1, 40).map(lambda n: n << 32) | st.just(2**64 - 1)
CALLS = st.lists(st.tuples(st.booleans(), KEYS, st.integers(0, 3)), max_size=300)


@settings(deadline=None)
@given(calls=CALLS)
def test_like_a_dictionary(calls):
    rows, model = RecordTable(value="I"), {}
    values = rows.index("value")
    for add, key, value in calls:
        row = rows.find(key)
        assert (row != NOT_THERE) == (key in model)
        if row != NOT_THERE:
            values.remove(row)
            rows.remove(row)
            del model[key]
        if add:
            row = rows.add(key)
            assert rows.columns["value"][row] == 0
            rows.columns["value"][row] = value
            values.add(row)
            model[key] = value
        assert len(rows) == len(model)
    assert {rows.keys[row]: rows.columns["value"][row] for row in rows} == model
    for value in range(4):
        found = sorted(rows.keys[row] for row in values.rows(value))
        assert found == sorted(key for key, held in model.items() if held == value)


def test_many_similar_keys():
    rows = RecordTable()
    keys = [number << 20 for number in range(1, 5000)] + list(range(1, 5000))
    for key in keys:
        before, full, growth = rows.nbytes, rows.full, rows.growth
        rows.add(key)
        assert rows.nbytes - before <= (growth if full else 0)
    assert all(rows.keys[rows.find(key)] == key for key in keys)
    for key in keys[::2]:
        rows.remove(rows.find(key))
    assert all(
        (rows.find(key) == NOT_THERE) == (number % 2 == 0) for number, key in enumerate(keys)
    )
    assert rows.nbytes / len(keys) < 32
    rows.reserve(100_000)
    assert rows.find(keys[1]) != NOT_THERE
    assert not rows.full


def test_removed_rows_take_no_room():
    rows = RecordTable(value="Q")
    for key in range(1, 5001):
        rows.columns["value"][rows.add(key)] = 7 * key
    large = rows.nbytes
    for key in range(1, 4801):
        rows.remove(rows.find(key))
        rows.compact()
        assert len(rows) == 5000 - key
    assert rows.nbytes < large / 8
    found = {rows.keys[row]: rows.columns["value"][row] for row in rows}
    assert found == {key: 7 * key for key in range(4801, 5001)}
    for key in range(1, 1000):
        assert rows.find(key) == NOT_THERE
        rows.columns["value"][rows.add(key)] = key
    assert all(rows.columns["value"][rows.find(key)] == key for key in range(1, 1000))
    assert rows.columns["value"][rows.find(5000)] == 35_000
