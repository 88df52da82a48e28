"""The manager compared with a dictionary, over random calls, tiers and eviction policies."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.helpers.managers import SHAPES, Managed
from tests.helpers.soak import scaled
from transom.memory.eviction import known

NAMES = st.sampled_from(["a", "b", "c", "d", "e", "ü/1", ""])
SPACES = st.sampled_from(["", "", "tenant"])
LENGTHS = st.integers(0, 40) | st.integers(0, 3000) | st.just(30_000)
VOCABULARY = 50_000
SHRINK = "SHRINK" in os.environ  # reduces a failing example, which takes minutes


def tokens(start: int, length: int) -> np.ndarray:
    """Tokens with one of three common beginnings, then an end of their own."""
    common = np.random.default_rng(start % 3).integers(0, VOCABULARY, 1200)
    own = np.random.default_rng(100 + start).integers(0, VOCABULARY, 30_000)
    return np.concatenate([common[: 400 * (start % 4)], own])[:length]


def machine(shape: str, eviction: str, folder) -> type[RuleBasedStateMachine]:
    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.managed = Managed(shape, eviction, folder())
            self.manager = self.managed.open()
            self.model: dict[tuple[str, str], np.ndarray] = {}
            self.states: dict[tuple[str, str], bytes] = {}
            self.views: list[tuple[np.ndarray, np.ndarray]] = []
            self.pins = []

        def teardown(self):
            self.managed.close()

        @rule(name=NAMES, space=SPACES, start=st.integers(0, 6), length=LENGTHS)
        def add(self, name, space, start, length):
            ids = tokens(start, length)
            self.model.pop((space, name), None)
            self.states.pop((space, name), None)
            if self.manager.add_context(name, ids, namespace=space, cost=start / 3):
                self.model[space, name] = ids
            else:
                assert self.manager.get_context(name, namespace=space) is None
                assert f"{name!r}" in self.manager.refusal

        @rule(name=NAMES, space=SPACES, start=st.integers(0, 6), length=st.integers(0, 700))
        def extend(self, name, space, start, length):
            before = self.manager.get_context(name, namespace=space)
            held = before is not None
            del before
            more = tokens(start, length)
            done = self.manager.extend(name, more, namespace=space)
            self.states.pop((space, name), None)
            assert held or not done
            if done:
                self.model[space, name] = np.concatenate([self.model[space, name], more])
            else:
                self.model.pop((space, name), None)

        @rule(name=NAMES, space=SPACES)
        def get(self, name, space):
            found = self.manager.get_context(name, namespace=space)
            if found is not None:
                np.testing.assert_array_equal(found, self.model[space, name])
            self.managed.expect(found is not None, (space, name) in self.model)

        @rule(name=NAMES, space=SPACES)
        def keep_a_view(self, name, space):
            found = self.manager.get_context(name, namespace=space)
            if found is not None and len(self.views) < 3:
                self.views.append((found, np.array(found)))

        @rule()
        def let_views_go(self):
            self.views.clear()

        @rule(name=NAMES, space=SPACES)
        def remove(self, name, space):
            known = (space, name) in self.model
            self.model.pop((space, name), None)
            self.states.pop((space, name), None)
            assert self.manager.remove_context(name, namespace=space) <= known
            assert self.manager.get_context(name, namespace=space) is None

        @rule(name=NAMES, space=SPACES, size=st.integers(0, 90_000), seed=st.integers(0, 99))
        def add_state(self, name, space, size, seed):
            payload = np.random.default_rng(seed).bytes(size)
            held = self.manager.get_context(name, namespace=space) is not None
            self.states.pop((space, name), None)
            if self.manager.add_state(name, payload, namespace=space, cost=seed / 9):
                assert held
                self.states[space, name] = payload

        @rule(name=NAMES, space=SPACES)
        def get_state(self, name, space):
            found = self.manager.get_state(name, namespace=space)
            if found is not None:
                assert bytes(found) == self.states[space, name]

        @rule(start=st.integers(0, 6), length=LENGTHS, space=SPACES)
        def longest_prefix(self, start, length, space):
            ids = tokens(start, length)
            found = self.manager.longest_prefix(ids, namespace=space)
            if found is not None:
                name, size = found
                assert 0 < size <= len(ids)
                np.testing.assert_array_equal(self.model[space, name][:size], ids[:size])
            block = self.manager.block_size
            best = max(
                (
                    common(held, ids) // block
                    for (where, name), held in self.model.items()
                    if where == space and name in self.present(space)
                ),
                default=0,
            )
            assert (0 if found is None else found[1] // block) >= best

        def present(self, space):
            return {c.id for c in self.manager.contexts() if c.namespace == space}

        @rule(name=NAMES, space=SPACES)
        def pin(self, name, space):
            if (space, name) in self.model and len(self.pins) < 2:
                found = self.manager.get_context(name, namespace=space)
                if found is not None:
                    self.pins.append((space, name, self.manager.pin(name, namespace=space)))

        @rule()
        def unpin(self):
            for _, _, pin in self.pins:
                pin.close()
            self.pins.clear()

        @rule(size=st.integers(0, 50_000))
        def evict(self, size):
            self.manager.evict(size)
            self.managed.evicted = True

        @rule()
        def reopen(self):
            if self.managed.durable:
                for _, _, pin in self.pins:
                    pin.close()
                self.pins.clear()
                self.manager = self.managed.again()

        @invariant()
        def sums_come_out(self):
            assert self.manager.verify().problems == ()
            stats = self.manager.stats()
            for tier in stats.tiers:
                assert tier.bytes <= tier.peak <= tier.capacity, tier
                assert tier.corrupt == 0
            self.managed.check(stats)

        @invariant()
        def views_keep_their_values(self):
            for view, copy in self.views:
                np.testing.assert_array_equal(view, copy)

        @invariant()
        def pinned_contexts_stay(self):
            for space, name, pin in self.pins:
                assert not pin.closed
                if (space, name) in self.model and pin.value is not None:
                    held = {(c.namespace, c.id) for c in self.manager.contexts()}
                    ids = self.model[space, name]
                    if len(ids) == len(pin.value) and np.array_equal(ids, pin.value):
                        assert (space, name) in held

    return Machine


def common(one: np.ndarray, other: np.ndarray) -> int:
    """The length of the common prefix, token by token."""
    length = 0
    for a, b in zip(one.tolist(), other.tolist(), strict=False):
        if a != b:
            break
        length += 1
    return length


# Other eviction policies differ from lru only when there is too little room.
CASES = [
    (shape, eviction)
    for shape in SHAPES
    for eviction in sorted(known())
    if eviction == "lru" or shape in ("tight", "tight, disk")
]


@pytest.mark.parametrize(("shape", "eviction"), CASES)
def test_like_a_dictionary_with_a_budget(shape, eviction, tmp_path_factory):
    Machine = machine(shape, eviction, lambda: tmp_path_factory.mktemp("model"))
    Machine.TestCase.settings = settings(
        max_examples=scaled(20, 400) if eviction == "lru" else scaled(8, 160),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.reuse] + [Phase.shrink] * SHRINK,
    )
    Machine.TestCase("runTest").runTest()
