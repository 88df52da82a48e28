"""What every tier must do. The suite runs over every kind of tier."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.helpers.opened_tiers import KINDS, Opened
from tests.helpers.soak import scaled
from transom.errors import BudgetError, InputError, StoreError

KEYS = st.integers(1, 12) | st.sampled_from([2**32, 2**63, 2**64 - 1])


@pytest.fixture(params=KINDS)
def opened(request, tmp_path):
    with Opened(request.param, tmp_path, capacity=2**20) as opened:
        yield opened


def test_a_tier_is_a_mapping(opened):
    tier = opened.tier
    assert len(tier) == 0
    assert list(tier) == []
    assert 1 not in tier
    with pytest.raises(KeyError):
        tier[1]
    with pytest.raises(KeyError):
        del tier[1]
    with pytest.raises(KeyError):
        tier.header(1)
    tier[1] = b"one"
    tier[2] = bytearray(b"two")
    tier[3] = np.arange(5, dtype=np.int32)
    tier[4] = b""
    assert {key: bytes(value) for key, value in tier.items()} == {
        1: b"one",
        2: b"two",
        3: np.arange(5, dtype=np.int32).tobytes(),
        4: b"",
    }
    tier[1] = b"another"
    assert bytes(tier[1]) == b"another"
    assert bytes(tier.pop(2)) == b"two"
    assert sorted(tier) == [1, 3, 4]
    tier.clear()
    assert len(tier) == 0


def test_values_are_read_only_bytes(opened):
    opened.tier[1] = np.arange(10, dtype=np.uint16)
    value = opened.tier[1]
    assert value.dtype == np.uint8
    assert value.shape == (20,)
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1


def test_headers(opened):
    tier = opened.tier
    assert tier.store(1, b"x", b"label")
    assert tier.header(1) == b"label"
    tier.replace_header(1, b"LABEL")
    assert tier.header(1) == b"LABEL"
    assert bytes(tier[1]) == b"x"
    assert tier.store(2, b"y")
    assert tier.header(2) == b""
    buffer = bytearray(b"ab")
    assert tier.store(3, b"z", buffer)
    buffer[:] = b"cd"
    assert tier.header(3) == b"ab"
    for header in ("ab", None, 5, [1]):
        with pytest.raises(InputError, match="is no header; expected bytes"):
            tier.store(4, b"z", header)
        with pytest.raises(InputError, match="is no header; expected bytes"):
            tier.replace_header(3, header)
    assert 4 not in tier
    assert tier.header(3) == b"ab"


def test_larger_than_the_tier_is_refused_by_name(opened):
    with pytest.raises(BudgetError, match=r"entry 7 has 1,048,577 bytes, more than the 1,048,576"):
        opened.tier[7] = bytes(2**20 + 1)
    assert not opened.tier.fits(2**20 + 1)
    assert 7 not in opened.tier


def test_a_full_tier_returns_false_and_changes_nothing(opened):
    tier, key = opened.tier, 0
    while tier.store(key + 1, bytes([key % 256]) * 30_000):
        key += 1
        assert tier.used <= tier.capacity
        assert key < 40
    assert key >= 20
    assert key + 1 not in tier
    with pytest.raises(BudgetError, match="no room for the 30,000 bytes of entry 99"):
        tier[99] = bytes(30_000)
    assert all(bytes(tier[k + 1]) == bytes([k % 256]) * 30_000 for k in range(key))
    del tier[3]
    assert tier.store(99, bytes(30_000))
    assert tier.peak <= tier.capacity


def test_a_payload_without_a_buffer_is_refused(opened):
    with pytest.raises(InputError, match="cannot store str"):
        opened.tier[1] = "text"
    with pytest.raises(InputError, match="contiguous"):
        opened.tier[1] = np.zeros((4, 4), dtype=np.int32)[:, ::2]
    with pytest.raises(InputError, match="cannot store ndarray"):
        opened.tier[1] = np.array([None, "x"], dtype=object)


NO_KEYS = ["x", b"x", -1, 0, 1.5, 2**64, True, None, (1, 2)]


@pytest.mark.parametrize("key", NO_KEYS)
def test_an_invalid_key_is_refused_by_name_and_never_held(opened, key):
    tier = opened.tier
    with pytest.raises(InputError, match=r"is no key; expected a whole number from 1"):
        tier[key] = b"x"
    with pytest.raises(InputError, match="is no key"):
        tier.store(key, b"x")
    assert key not in tier
    assert tier.get(key) is None
    assert tier.pop(key, "none") == "none"
    for call in (tier.__getitem__, tier.__delitem__, tier.size, tier.header):
        with pytest.raises(KeyError):
            call(key)
    assert len(tier) == 0


def test_keys_of_numpy_are_keys(opened):
    opened.tier[np.uint64(2**64 - 1)] = b"x"
    opened.tier[np.int8(3)] = b"y"
    assert sorted(opened.tier) == [3, 2**64 - 1]
    assert bytes(opened.tier[2**64 - 1]) == b"x"


@pytest.mark.parametrize("former", [b"old", b"o" * 400_000])
@pytest.mark.parametrize("seen", [False, True])
def test_a_failed_assignment_keeps_the_former_value(opened, former, seen):
    tier = opened.tier
    assert tier.store(1, former, b"label")
    tier[2] = bytes(300_000)
    view = tier[1] if seen else None
    with pytest.raises(BudgetError, match="no room for the 800,000 bytes of entry 1"):
        tier[1] = bytes(800_000)
    with pytest.raises(BudgetError, match="more than the 1,048,576"):
        tier[1] = bytes(2**20 + 1)
    with pytest.raises(InputError, match="cannot store str"):
        tier[1] = "text"
    assert bytes(tier[1]) == former
    assert tier.header(1) == b"label"
    assert view is None or bytes(view) == former
    opened.check()
    del view
    tier[1] = b"n" * 300_000
    assert bytes(tier[1]) == b"n" * 300_000
    assert sorted(tier) == [1, 2]
    opened.check()


def test_replaced_again_and_again(opened):
    tier = opened.tier
    seen = None
    for number in range(30):
        payload = bytes([number]) * (number * 9_000)
        tier[5] = payload
        assert seen is None or bytes(seen) == bytes([number - 1]) * ((number - 1) * 9_000)
        seen = tier[5]
        assert bytes(seen) == payload
        assert len(tier) == 1
        opened.check()
    if tier.durable:
        assert bytes(opened.again()[5]) == payload


def test_payloads_are_compared_by_their_bytes(opened):
    tier = opened.tier
    tier[1], tier[2] = b"one", b"two"
    assert b"one" in tier.values()
    assert np.frombuffer(b"two", np.uint8) in tier.values()
    assert b"three" not in tier.values()
    assert "one" not in tier.values()
    assert (2, b"two") in tier.items()
    assert (1, b"two") not in tier.items()
    assert tier == tier
    assert tier == {1: b"one", 2: b"two"}
    assert tier != {1: b"one", 2: b"tow"}
    assert tier != {1: b"one"}
    assert tier != [1, 2]
    with Opened("ram", None, 2**20) as other:
        other.tier.update(tier)
        assert tier == other.tier


def test_a_tier_may_change_during_iteration(opened):
    opened.tier.update(dict.fromkeys(range(1, 9), b"x"))
    for key in opened.tier:
        del opened.tier[key]
    assert len(opened.tier) == 0


def test_a_held_key_is_not_stored_again(opened):
    assert opened.tier.store(1, b"one", b"label")
    assert not opened.tier.store(1, b"two")
    assert bytes(opened.tier[1]) == b"one"
    assert not opened.tier.store(2, b"x", b"L" * 4097)
    with pytest.raises(InputError, match="header of entry 1 has 5 bytes, and 3 were given"):
        opened.tier.replace_header(1, b"new")
    with pytest.raises(KeyError):
        opened.tier.replace_header(2, b"label")
    opened.check()


def test_closed(opened):
    tier = opened.tier
    tier[1] = b"one"
    tier.close()
    tier.close()
    with pytest.raises(StoreError, match="was closed"):
        tier[1] = b"x"
    calls = [
        lambda: tier[1],
        lambda: tier.get(1),
        lambda: 1 in tier,
        lambda: len(tier),
        lambda: list(tier),
        lambda: tier.pop(1),
        lambda: tier.store(2, b"x"),
        lambda: tier.header(1),
        lambda: tier.size(1),
        lambda: tier.replace_header(1, b""),
        lambda: tier.verify(),
        lambda: tier.flush(),
        lambda: tier == {1: b"one"},
    ]
    for call in calls:
        with pytest.raises(StoreError, match="was closed"):
            call()
    assert "closed" in repr(tier)
    assert tier.used == 0


def test_reopened(opened):
    opened.tier.store(5, b"five", b"label")
    opened.tier.store(6, bytes(100_000))
    del opened.tier[6]
    tier = opened.again()
    if tier.durable:
        assert {key: bytes(value) for key, value in tier.items()} == {5: b"five"}
        assert tier.header(5) == b"label"
    else:
        assert len(tier) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_like_a_dictionary(kind, tmp_path_factory):
    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.opened = Opened(kind, tmp_path_factory.mktemp(kind), capacity=2**20)
            self.opened.__enter__()
            self.model: dict[int, bytes] = {}

        def teardown(self):
            self.opened.__exit__(None, None, None)

        @rule(
            key=KEYS, size=st.integers(0, 3000) | st.integers(0, 400_000), seed=st.integers(0, 255)
        )
        def store(self, key, size, seed):
            if key in self.model:
                del self.opened.tier[key]
                del self.model[key]
            payload = np.random.default_rng(seed).bytes(size)
            if self.opened.tier.store(key, payload, b"L" * (key % 9)):
                self.model[key] = payload

        @rule(key=KEYS)
        def delete(self, key):
            assert (self.opened.tier.pop(key, None) is None) == (self.model.pop(key, None) is None)

        @rule()
        def reopen(self):
            if self.opened.tier.durable:
                self.opened.again()

        @rule(key=KEYS)
        def read(self, key):
            if key in self.model:
                assert bytes(self.opened.tier[key]) == self.model[key]
                assert self.opened.tier.header(key) == b"L" * (key % 9)
            else:
                assert key not in self.opened.tier

        @invariant()
        def same(self):
            tier = self.opened.tier
            assert sorted(tier) == sorted(self.model)
            assert len(tier) == len(self.model)
            assert tier.used <= tier.peak <= tier.capacity
            self.opened.check()

    Machine.TestCase.settings = settings(
        max_examples=scaled(15, 400),
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Machine.TestCase("runTest").runTest()


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(0, 5000), max_size=20))
def test_memory_gives_pages_back(sizes):
    with Opened("ram", None, capacity=2**20) as opened:
        tier = opened.tier
        for key, size in enumerate(sizes, 1):
            tier[key] = bytes([key]) * size
        for key in range(1, len(sizes) + 1, 2):
            del tier[key]
        before = tier.used
        given_back = tier.shrink(2**20)
        assert tier.used == before - given_back == tier.budget.bytes
        assert all(bytes(tier[k]) == bytes([k]) * sizes[k - 1] for k in range(2, len(sizes) + 1, 2))
        if not len(tier):
            assert tier.used == 0


def test_memory_with_a_view_is_not_used_again():
    with Opened("ram", None, capacity=2**20) as opened:
        tier = opened.tier
        tier[1] = b"\1" * 300_000
        seen = tier[1][5:10]
        assert tier.in_use(1)
        del tier[1]
        assert tier.borrowed == 300_032
        assert tier.store(2, b"\2" * 600_000)
        assert not tier.store(3, b"\3" * 300_000)
        assert bytes(seen) == b"\1" * 5
        del seen
        assert tier.store(3, b"\3" * 300_000)
        assert tier.borrowed == 0
