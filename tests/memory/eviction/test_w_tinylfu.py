"""Who competes in W-TinyLFU, where the plain one would seldom see it."""

from __future__ import annotations

from transom.memory.eviction import Newcomer, WTinyLFU


def test_what_is_pinned_leaves_the_window_without_competing() -> None:
    policy = WTinyLFU(capacity=1000)  # of which the window has 10
    policy.add("often", 990)
    for _ in range(5):
        policy.touch("often")
    policy.add("new", 10)
    assert policy.victim(Newcomer("newer", 10)) == "new"
    policy.pin("new")
    assert policy.victim(Newcomer("newer", 10)) == "often"
    policy.unpin("new")
    assert policy.victim(Newcomer("newer", 10), may_go=lambda key: key != "new") == "often"


def test_what_was_seen_more_often_replaces_who_is_there() -> None:
    policy = WTinyLFU(capacity=1000)
    policy.add("once", 990)
    policy.add("new", 10)
    policy.touch("new")
    assert policy.victim(Newcomer("newer", 10)) == "once"
