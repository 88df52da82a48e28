"""The monitor: statistics against numpy, labels, threads, limits, mistakes."""

from __future__ import annotations

import math
import sys
import threading
import tracemalloc
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom import ContextWindowMonitor
from transom.errors import InputError, MissingExtraError
from transom.monitor import series as series_module
from transom.monitor.series import BUFFER

NUMBERS = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(NUMBERS, st.sampled_from("ab"), st.booleans()), max_size=50), st.data())
def test_statistics_match_numpy(records: Any, data: Any) -> None:
    monitor = ContextWindowMonitor()
    assert monitor.get_statistics("window_size") == {}
    for value, tenant, labelled in records:
        labels = {"tenant": tenant} if labelled else {}
        monitor.record_metric("window_size", value, **labels)
        if data.draw(st.booleans()):
            monitor.get_statistics("window_size")  # reading statistics in between changes nothing
    for labels, values in (
        ({}, [value for value, _, _ in records]),
        ({"tenant": "a"}, [value for value, tenant, known in records if known and tenant == "a"]),
    ):
        statistics = monitor.get_statistics("window_size", **labels)
        if not values:
            assert statistics == {}
            continue
        assert statistics["count"] == len(values)
        scale = 1 + np.abs(values).max()
        assert statistics["mean"] == pytest.approx(np.mean(values), abs=1e-9 * scale)
        assert statistics["std"] == pytest.approx(np.std(values), abs=1e-6 * scale)
        assert (statistics["min"], statistics["max"]) == (min(values), max(values))
        assert min(values) <= statistics["p50"] <= statistics["p90"] <= statistics["p99"]
        assert statistics["p99"] <= max(values)
        assert statistics["rate"] > 0


@pytest.mark.parametrize("shape", ["normal", "lognormal", "steps", "rising"])
def test_percentiles_of_many_values_are_close_in_rank(shape: str) -> None:
    random = np.random.default_rng(0)
    values = {
        "normal": random.normal(size=100_000),
        "lognormal": random.lognormal(0, 2, size=100_000),
        "steps": random.integers(0, 5, 100_000).astype(float),
        "rising": np.arange(100_000.0),
    }[shape]
    monitor = ContextWindowMonitor()
    record = monitor.series("processing_time").record
    for value in values:
        record(value)
    statistics = monitor.get_statistics("processing_time")
    for name, rank, off in (("p50", 0.5, 0.01), ("p90", 0.9, 0.005), ("p99", 0.99, 0.001)):
        found = statistics[name]
        assert np.mean(values < found) - off <= rank <= np.mean(values <= found + 1e-9) + off
    assert statistics["mean"] == pytest.approx(values.mean())
    assert statistics["std"] == pytest.approx(values.std())
    assert statistics["last"] == values[-1]


def test_the_metrics_of_the_guide_exist_and_others_are_made_on_use() -> None:
    monitor = ContextWindowMonitor()
    for name in ("window_size", "memory_usage", "processing_time"):
        assert monitor.get_statistics(name) == {}
    monitor.record_metric("batch", np.float32(2))
    assert monitor.get_statistics("batch")["mean"] == 2
    with pytest.raises(InputError, match="no metric is called 'batsch'; there are batch, memory_u"):
        monitor.get_statistics("batsch")
    assert monitor.get_statistics("batch", tenant="a") == {}


def test_labels_in_any_order_are_the_same_series() -> None:
    monitor = ContextWindowMonitor()
    monitor.record_metric("x", 1, a="1", b="2")
    monitor.record_metric("x", 3, b="2", a="1")
    monitor.record_metric("x", 5, b="9", a="1")
    assert monitor.series("x", b="2", a="1") is monitor.series("x", a="1", b="2")
    assert monitor.get_statistics("x", a="1", b="2")["mean"] == 2
    assert monitor.get_statistics("x", a="1")["mean"] == 3
    assert monitor.get_statistics("x", a=1)["count"] == 3  # type: ignore[arg-type]


def test_threads_lose_nothing() -> None:
    monitor = ContextWindowMonitor()
    each, threads = 10_000, 4

    def work(tenant: int) -> None:
        for at in range(each):
            monitor.record_metric("x", at, tenant=str(tenant % 2))
            if at % 500 == 0:
                monitor.get_statistics("x")

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        running = [threading.Thread(target=work, args=(at,)) for at in range(threads)]
        for one in running:
            one.start()
        for one in running:
            one.join()
    finally:
        sys.setswitchinterval(switch)
    statistics = monitor.get_statistics("x")
    assert statistics["count"] == each * threads
    assert statistics["mean"] == pytest.approx((each - 1) / 2)


def test_memory_is_bounded() -> None:
    tracemalloc.start()
    try:
        monitor = ContextWindowMonitor()
        record = monitor.series("processing_time").record
        for at in range(3 * BUFFER):
            record(at)
        before = tracemalloc.get_traced_memory()[0]
        for at in range(100 * BUFFER):
            record(at * 7 % 1000)
        assert tracemalloc.get_traced_memory()[0] < before + 4096
    finally:
        tracemalloc.stop()


def test_a_timed_block_is_recorded_even_if_it_fails() -> None:
    monitor = ContextWindowMonitor()
    with monitor.timed(call="a"):
        pass
    with pytest.raises(KeyError), monitor.timed(call="a"):
        raise KeyError
    with monitor.timed("other"):
        pass
    assert monitor.get_statistics("processing_time", call="a")["count"] == 2
    assert monitor.get_statistics("other")["count"] == 1


@pytest.mark.parametrize(
    "values",
    [
        (1e308, 1.7e308, -1e308),
        (-1.7e308, 1.7e308) * 700,
        (1e-300, 3e-300),
        (5e-324, 1e308),
        (0.0, 0.0),
        tuple(np.random.default_rng(0).normal(size=3000) * 1e307),
    ],
)
def test_statistics_of_extreme_values(values: Any) -> None:
    monitor = ContextWindowMonitor()
    for at, value in enumerate(values):
        monitor.record_metric("x", value, half=str(at % 2))
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    unit = max(map(abs, exact)) or Fraction(1)
    squares = sum(((value - mean) / unit) ** 2 for value in exact) / len(exact)
    for labels in ({}, {"half": "0"}):
        found = monitor.get_statistics("x", **labels)
        found.pop("sum")  # the sum may overflow a float
        assert all(map(math.isfinite, found.values()))
        assert found["min"] <= found["p50"] <= found["p90"] <= found["p99"] <= found["max"]
    found = monitor.get_statistics("x")
    assert found["mean"] == pytest.approx(float(mean), rel=1e-9, abs=float(unit) * 1e-15)
    assert found["std"] == pytest.approx(float(unit) * math.sqrt(squares), rel=1e-9)


def test_numbers_of_any_kind_are_floats() -> None:
    monitor = ContextWindowMonitor()
    given = (
        np.float32(1.5), np.int64(3), np.array(2.0), np.array([4.0]), Decimal("1.5"),
        Fraction(1, 2), True, 7,
    )  # fmt: skip
    for value in given:
        monitor.record_metric("x", value)  # type: ignore[arg-type]
    found = monitor.get_statistics("x")
    assert (found["count"], found["sum"]) == (8, 20.5)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), -float("inf"), "1", b"1", None, [1], 1j, 10**400, -(10**5000),
        Fraction(10**400), Decimal("1e400"), Decimal("NaN"), Decimal("sNaN"), np.array([1.0, 2.0]),
        np.array([]), np.float64("nan"), np.complex128(1), np.datetime64("2026-01-01"),
        np.str_("1"),
    ],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_values_that_are_not_numbers_are_refused(value: Any) -> None:
    monitor = ContextWindowMonitor()
    with pytest.raises(InputError, match="expected a finite number"):
        monitor.record_metric("x", value)
    assert monitor.get_statistics("x") == {}


@pytest.mark.parametrize("label", ["quantile", "__name__", "__x"])
def test_labels_that_prometheus_reserves_are_refused(label: str) -> None:
    monitor = ContextWindowMonitor()
    with pytest.raises(InputError, match="which Prometheus needs for itself"):
        monitor.record_metric("x", 1, **{label: "a"})
    with pytest.raises(InputError, match="no metric is called 'x'"):
        monitor.get_statistics("x")
    with pytest.raises(InputError, match="cannot be written as UTF-8"):
        monitor.record_metric("x", 1, tenant="\ud800")


@pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "ä"])
def test_names_that_no_exporter_accepts_are_refused(name: str) -> None:
    monitor = ContextWindowMonitor()
    with pytest.raises(InputError, match="expected letters"):
        monitor.record_metric(name, 1)
    with pytest.raises(InputError, match="expected letters"):
        monitor.record_metric("x", 1, **{name: "a"})
    with pytest.raises(InputError, match="expected letters"):
        monitor.record_metric(5, 1)  # type: ignore[arg-type]


def test_an_unhashable_value_is_text_as_a_label_but_refused_as_a_name() -> None:
    monitor = ContextWindowMonitor()
    monitor.record_metric("x", 1, shape=[1, 2])  # type: ignore[arg-type]
    assert monitor.get_statistics("x", shape="[1, 2]")["count"] == 1
    for name in (["x"], {}):
        with pytest.raises(InputError, match="expected letters"):
            monitor.record_metric(name, 1)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="nothing is attached as"):
            monitor.detach(name)  # type: ignore[arg-type]


def test_there_are_at_most_max_series() -> None:
    monitor = ContextWindowMonitor(max_series=5)
    for at in range(2):
        monitor.record_metric("x", 1, request=str(at))
    with pytest.raises(InputError, match=r"series number 6.*Use labels with few"):
        monitor.record_metric("x", 1, request="2")
    monitor.record_metric("x", 1, request="1")
    with pytest.raises(InputError, match="max_series is 2; expected at least 3"):
        ContextWindowMonitor(max_series=2)


def test_a_rate_covers_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(series_module, "monotonic", lambda: now)
    one = series_module.Series()
    for _ in range(120):
        now += 0.5
        one.record(1.0)
        one.rate()
    assert one.rate() == pytest.approx(2, rel=0.05)
    now += 600
    assert one.rate() == 0
    now += 1
    one.record(1.0)
    now += 60
    assert one.rate() == pytest.approx(1 / 61, rel=0.1)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketches", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'transom\[monitor\]'"):
        ContextWindowMonitor()
