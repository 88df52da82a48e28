"""Cases of W-TinyLFU's competition that random traces rarely reach."""

from __future__ import annotations

from transom.memory.eviction import Newcomer, WTinyLFU


def test_pinned_keys_leave_the_window_without_competing() -> None:
    policy = WTinyLFU(capacity=1000)  # the window takes 10 of them
    policy.add("often", 990)
    for _ in range(5):
        policy.touch("often")
    policy.add("new", 10)
    assert policy.victim(Newcomer("newer", 10)) == "new"
    policy.pin("new")
    assert policy.victim(Newcomer("newer", 10)) == "often"
    policy.unpin("new")
    assert policy.victim(Newcomer("newer", 10), may_go=lambda key: key != "new") == "often"


def test_a_newcomer_seen_more_often_replaces_the_victim() -> None:
    policy = WTinyLFU(capacity=1000)
    policy.add("once", 990)
    policy.add("new", 10)
    policy.touch("new")
    assert policy.victim(Newcomer("newer", 10)) == "once"
