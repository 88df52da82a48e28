"""An attached object is read and timed, and otherwise behaves as before."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any, NamedTuple

import pytest

from transom import ContextWindow, ContextWindowFactory, ContextWindowMonitor
from transom.errors import InputError
from transom.windows import TokenState

NAMES = sorted(ContextWindowFactory.known())


class Usage(NamedTuple):
    seen: int
    kept: int
    dropped: int
    kv_bytes: int
    position: int


class Context:
    usage = Usage(seen=10, kept=6, dropped=4, kv_bytes=600, position=6)

    def append(self, text: str) -> str:
        return text.upper()


class Corpus:
    tokens, documents, nbytes = 1000, 3, 2000


class Tier(NamedTuple):
    name: str
    bytes: int
    hits: int


class Stats(NamedTuple):
    contexts: int
    bytes: int
    hits: int
    note: str
    tiers: tuple[Tier, ...]


class Manager:
    def __init__(self) -> None:
        self.hits = 7

    def stats(self) -> Stats:
        return Stats(2, 300, self.hits, "text", (Tier("ram", 100, 5), Tier("disk", 200, 2)))

    def get_context(self, name: str) -> str:
        return name


def values(monitor: ContextWindowMonitor) -> dict[Any, float]:
    return {
        (one.name, *(value for _, value in one.labels)): one.statistics["last"]
        for one in monitor.snapshot()
    }


@pytest.mark.parametrize("name", NAMES)
def test_windows(name: str) -> None:
    monitor, window = ContextWindowMonitor(), ContextWindowFactory.create_window(name)
    assert monitor.attach(window, "w") == "w"
    window.add_tokens(range(5000))
    monitor.poll()
    window.add_tokens(range(100))
    found = values(monitor)
    assert found["window_size", "w"] == len(window)
    assert found["memory_usage", "w"] == window.nbytes
    assert found["tokens_seen", "w"] == 5100
    assert found["tokens_dropped", "w"] == window.dropped
    assert found["processing_time", "add_tokens", "w"] > 0
    times = monitor.get_statistics("processing_time", source="w")
    assert times["count"] == 2
    assert monitor.get_statistics("window_size")["count"] == 2


def test_contexts_corpora_and_managers() -> None:
    monitor, context, corpus, manager = ContextWindowMonitor(), Context(), Corpus(), Manager()
    for source in (context, corpus, manager):
        monitor.attach(source)
    assert context.append("a") == "A"
    assert manager.get_context("b") == "b"
    manager.hits = 8
    found = values(monitor)
    times = {key: found.pop(key) for key in list(found) if key[0] == "processing_time"}
    assert set(times) == {
        ("processing_time", "append", "Context"),
        ("processing_time", "get_context", "Manager"),
    }
    assert found == {
        ("window_size", "Context"): 6,
        ("memory_usage", "Context"): 600,
        ("tokens_seen", "Context"): 10,
        ("tokens_dropped", "Context"): 4,
        ("corpus_tokens", "Corpus"): 1000,
        ("corpus_documents", "Corpus"): 3,
        ("corpus_bytes", "Corpus"): 2000,
        ("contexts", "Manager"): 2,
        ("memory_usage", "Manager"): 300,
        ("hits", "Manager"): 8,
        ("tier_bytes", "Manager", "ram"): 100,
        ("tier_bytes", "Manager", "disk"): 200,
        ("tier_hits", "Manager", "ram"): 5,
        ("tier_hits", "Manager", "disk"): 2,
    }
    totals = {one.name for one in monitor.snapshot() if one.kind == "total"}
    assert totals == {"tokens_seen", "tokens_dropped", "hits", "tier_hits"}


@pytest.fixture(params=NAMES)
def attached(request: Any) -> tuple[TokenState, TokenState, ContextWindowMonitor]:
    """A window that is attached, and an equal one that is not."""
    monitor = ContextWindowMonitor()
    windows = [ContextWindowFactory.create_window(request.param) for _ in range(2)]
    monitor.attach(windows[0], "w")
    for window in windows:
        window.add_tokens(range(700))
    return windows[0], windows[1], monitor


def test_an_attached_window_behaves_as_any_other(attached: Any) -> None:
    window, other, _ = attached
    assert window == other
    assert other == window
    assert window != ContextWindow(3)
    assert repr(window) == repr(other)
    assert isinstance(window, type(other))
    assert type(window).__name__ == type(other).__name__
    with pytest.raises(TypeError, match="unhashable"):
        hash(window)


def test_copies_of_a_watched_object_are_not_watched(attached: Any) -> None:
    window, other, monitor = attached
    assert type(copy.copy(window)) is type(other)
    for one in (copy.deepcopy(window), pickle.loads(pickle.dumps(window))):
        assert one == window
        assert type(one) is type(other)
        one.add_tokens([1])
        assert one.seen == window.seen + 1
    assert monitor.get_statistics("processing_time")["count"] == 1


def test_other_objects_of_the_class_are_not_changed(attached: Any) -> None:
    window, other, monitor = attached
    assert type(other).add_tokens.__module__ == "transom.windows.sliding" or (
        type(other).add_tokens is TokenState.add_tokens
    )
    assert vars(other).keys() == vars(window).keys()
    monitor.detach("w")
    assert type(window) is type(other)
    window.add_tokens([1])
    assert monitor.get_statistics("processing_time")["count"] == 1
    assert monitor.attach(window, "w") == "w"


@pytest.mark.parametrize("first", [0, 1, 2])
def test_monitors_that_share_an_object_come_and_go_in_any_order(first: int) -> None:
    monitors, window = [ContextWindowMonitor() for _ in range(3)], ContextWindow(4)
    for number, monitor in enumerate(monitors):
        monitor.attach(window, f"w{number}")
    window.add_tokens([1])
    counts = [1, 1, 1]
    left = [0, 1, 2]
    while left:
        gone = left.pop(first % len(left))
        monitors[gone].detach(f"w{gone}")
        window.add_tokens([1])
        counts = [count + (number in left) for number, count in enumerate(counts)]
        found = [one.get_statistics("processing_time")["count"] for one in monitors]
        assert found == counts
        assert window == pickle.loads(pickle.dumps(window))
        assert type(pickle.loads(pickle.dumps(window))) is ContextWindow
    assert type(window) is ContextWindow


def test_without_timing_nothing_changes() -> None:
    monitor, window = ContextWindowMonitor(), ContextWindow(4)
    monitor.attach(window, timed=False)
    assert type(window) is ContextWindow
    window.add_tokens([1, 2])
    assert values(monitor)["window_size", "ContextWindow"] == 2
    monitor.detach("ContextWindow")


def test_an_attached_object_is_not_kept_alive() -> None:
    monitor, window = ContextWindowMonitor(), ContextWindow(4)
    monitor.attach(window)
    monitor.poll()
    del window
    gc.collect()
    monitor.poll()
    assert monitor.get_statistics("window_size")["count"] == 1
    again = ContextWindow(4)
    assert monitor.attach(again) == "ContextWindow"


def test_a_collected_source_leaves_statistics_but_no_series() -> None:
    monitor = ContextWindowMonitor(max_series=20)
    for at in range(200):
        window = ContextWindow(4)
        monitor.attach(window, f"session-{at}")
        window.add_tokens(range(at))
        assert values(monitor)["tokens_seen", f"session-{at}"] == at
        del window
    assert not [key for key in values(monitor) if "session-199" in key]
    assert monitor.get_statistics("window_size")["count"] == 200
    assert monitor.get_statistics("processing_time", call="add_tokens")["count"] == 200
    assert monitor.get_statistics("processing_time")["rate"] > 1
    assert monitor.get_statistics("processing_time", source="session-7") == {}


def test_numbers_that_are_gone_are_no_longer_exported() -> None:
    monitor, window, manager = ContextWindowMonitor(), ContextWindow(4), Manager()
    monitor.attach(window, "w")
    monitor.attach(manager, "m")
    monitor.record_metric("window_size", 7.0)
    window.add_tokens(range(9))
    monitor.poll()
    monitor.detach("w")
    assert not [key for key in values(monitor) if "w" in key]
    assert monitor.get_statistics("window_size")["count"] == 2
    assert values(monitor)["tier_bytes", "m", "disk"] == 200
    manager.stats = lambda: Stats(2, 300, 8, "text", (Tier("ram", 100, 5),))  # type: ignore[method-assign]
    found = values(monitor)
    assert found["tier_bytes", "m", "ram"] == 100
    assert ("tier_bytes", "m", "disk") not in found


def test_an_object_that_needs_too_many_series_is_not_attached() -> None:
    monitor = ContextWindowMonitor(max_series=20)
    windows = [ContextWindow(4) for _ in range(5)]
    monitor.attach(windows[0])
    monitor.attach(windows[1])
    with pytest.raises(InputError, match=r"attaching 'ContextWindow-3' .* max_series is 20"):
        monitor.attach(windows[2])
    assert type(windows[2]) is ContextWindow
    assert values(monitor)["window_size", "ContextWindow-2"] == 0
    monitor.detach("ContextWindow")
    monitor.attach(windows[2])


def test_read_and_recorded_values_of_one_name_and_label_are_two_metrics() -> None:
    monitor, window = ContextWindowMonitor(), ContextWindow(4)
    monitor.attach(window, "w")
    window.add_tokens(range(3))
    monitor.record_metric("window_size", 100.0, source="w")
    kinds = {
        one.kind: one.statistics["last"]
        for one in monitor.snapshot()
        if one.labels == (("source", "w"),) and one.name == "window_size"
    }
    assert kinds == {"read": 3, "recorded": 100}
    assert monitor.get_statistics("window_size", source="w")["count"] == 2
    assert repr(monitor) == "<ContextWindowMonitor: 10 series, w attached>"


def test_failing_calls_are_timed_and_still_fail() -> None:
    monitor, window = ContextWindowMonitor(), ContextWindow(4)
    monitor.attach(window)
    with pytest.raises(InputError):
        window.add_tokens(["no"])
    assert monitor.get_statistics("processing_time")["count"] == 1


class Slots:
    __slots__ = ("__weakref__",)

    def stats(self) -> dict[str, Any]:
        return {"bytes": 3, "hits": 1}

    def get_context(self) -> None: ...


class Failing:
    def stats(self) -> Any:
        raise KeyError("no such")


def test_mistakes() -> None:
    monitor, window = ContextWindowMonitor(), ContextWindow(4)
    with pytest.raises(InputError, match="list cannot be attached; expected a token window"):
        monitor.attach([])
    monitor.attach(window, "w")
    with pytest.raises(InputError, match="is attached already"):
        monitor.attach(window)
    with pytest.raises(InputError, match="'w' is attached already; give another name"):
        monitor.attach(ContextWindow(4), "w")
    with pytest.raises(InputError, match="nothing is attached as 'v'"):
        monitor.detach("v")
    slots = Slots()
    with pytest.raises(InputError, match="attach it with timed=False"):
        monitor.attach(slots)
    monitor.attach(slots, timed=False)
    assert values(monitor)["memory_usage", "Slots"] == 3
    with pytest.raises(InputError, match=r"name is 5 \(int\); expected text"):
        monitor.attach(ContextWindow(4), 5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be written as UTF-8"):
        monitor.attach(ContextWindow(4), "\ud800")
    with pytest.raises(InputError, match="reading it raised KeyError"):
        monitor.attach(Failing())
    several = [ContextWindow(4) for _ in range(3)]
    names = [monitor.attach(one) for one in several]
    assert names == ["ContextWindow", "ContextWindow-2", "ContextWindow-3"]
