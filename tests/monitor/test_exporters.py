"""Metrics in the format of Prometheus and as lines of JSON."""

from __future__ import annotations

import json
import sys
import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.forking import in_a_fork
from transom import ContextWindow, ContextWindowMonitor
from transom.errors import InputError, MissingExtraError
from transom.monitor import JsonLines, json_lines
from transom.monitor.prometheus import PrometheusCollector, prometheus_text


@pytest.fixture
def monitor():
    monitor = ContextWindowMonitor()
    for seconds in (1.0, 2.0, 3.0):
        monitor.record_metric("processing_time", seconds)
    monitor.record_metric("processing_time", 5.0, tenant='a "quoted" \\ name\n')
    return monitor


def test_prometheus_reads_what_was_recorded(monitor):
    window = ContextWindow(4)
    monitor.record_metric("window_size", 9)
    monitor.attach(window, "w", timed=False)
    window.add_tokens(range(6))
    families = {one.name: one for one in text_string_to_metric_families(prometheus_text(monitor))}
    assert {name: one.type for name, one in families.items()} == {
        "transom_memory_usage_bytes": "gauge",
        "transom_processing_time_seconds": "summary",
        "transom_tokens_dropped": "counter",
        "transom_tokens_seen": "counter",
        "transom_window_size_tokens": "gauge",
        "transom_window_size_tokens_recorded": "summary",
    }
    samples = {
        (one.name, *one.labels.values()): one.value
        for family in families.values()
        for one in family.samples
    }
    assert samples["transom_processing_time_seconds_sum",] == 6
    assert samples["transom_processing_time_seconds_count",] == 3
    assert samples["transom_processing_time_seconds", "0.5"] == 2
    assert samples["transom_processing_time_seconds_sum", 'a "quoted" \\ name\n'] == 5
    assert samples["transom_tokens_seen_total", "w"] == 6
    assert samples["transom_tokens_dropped_total", "w"] == 2
    assert samples["transom_window_size_tokens", "w"] == 4
    assert samples["transom_window_size_tokens_recorded_sum",] == 9


def test_each_scrape_reads_the_monitor_again(monitor):
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(monitor))
    name = "transom_processing_time_seconds_count"
    assert registry.get_sample_value(name) == 3
    monitor.record_metric("processing_time", 1)
    assert registry.get_sample_value(name) == 4


def test_json_lines(monitor):
    lines = [json.loads(line) for line in json_lines(monitor).splitlines()]
    assert [one["labels"] for one in lines] == [{}, {"tenant": 'a "quoted" \\ name\n'}]
    assert lines[0]["name"] == "processing_time"
    assert (lines[0]["count"], lines[0]["mean"], lines[0]["p50"]) == (3, 2, 2)
    assert lines[0]["kind"] == "recorded"
    assert lines[0]["time"].endswith("+00:00")
    assert json_lines(ContextWindowMonitor()) == ""


def test_json_lines_every_so_often(monitor, tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(monitor, path, every=0.01):
        while not path.stat().st_size:
            time.sleep(0.005)
        monitor.record_metric("processing_time", 10.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    unlabelled = [one["count"] for one in lines if not one["labels"]]
    assert unlabelled[0] == 3
    assert unlabelled[-1] == 4
    with JsonLines(monitor, path, every=1000):
        pass
    assert len(path.read_text().splitlines()) == len(lines) + 2


def test_an_error_while_writing_is_raised_on_closing(monitor, tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    writing = JsonLines(monitor, path, every=0.01)
    writing.__enter__()
    path.unlink()
    path.mkdir()
    writing._thread.join(timeout=10)
    with pytest.raises(InputError, match="cannot write metrics"):
        writing.__exit__(None, None, None)
    assert "cannot write metrics" in caplog.text
    path.rmdir()
    with writing, pytest.raises(InputError, match="already"):  # the file may be opened again
        writing.__enter__()
    assert path.read_text().count("\n") == 2


def test_numbers_too_large_for_floats_are_null_in_json():
    monitor = ContextWindowMonitor()
    for value in (1e308, 1.7e308):
        monitor.record_metric("x", value)
    (line,) = json_lines(monitor).splitlines()

    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(line, parse_constant=refused)
    assert found["sum"] is None
    assert found["mean"] == pytest.approx(1.35e308)


class Source:
    """An object with statistics of its own; reading them may fail."""

    def __init__(self, **stats):
        self.given = stats

    def stats(self):
        if isinstance(self.given, type):
            raise self.given("the disk is gone")
        return self.given


@pytest.mark.parametrize(
    "metrics",
    [
        ("x", "x_count", "x_sum", "x_created"),
        ("hits", "hits_total", "hits_count", "hits_recorded", "hits_total_recorded"),
        ("size", "size_read", "size_recorded", "size_sum"),
        ("memory_usage", "memory_usage_bytes", "memory_usage_bytes_recorded"),
        ("read_errors", "read_errors_total", "tokens_seen", "tokens_seen_total"),
    ],
)
def test_no_two_series_have_the_same_name(metrics):
    monitor, window = ContextWindowMonitor(), ContextWindow(4)
    source = Source(hits=1, size=2, size_sum=4, tokens_seen=5, hits_total=6, broken=float("nan"))
    monitor.attach(source, "s")
    monitor.attach(window, "w", timed=False)
    for name in metrics:
        monitor.record_metric(name, 3.0)
        monitor.record_metric(name, 4.0, source="s")
    text = prometheus_text(monitor)
    lines = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("# HELP")]
    assert len(set(lines)) == len(lines)
    families = {family.name: family for family in openmetrics(monitor)}
    # Recorded metrics are summaries; metrics that were read have a value.
    assert sum(family.type == "summary" for family in families.values()) == len(metrics)
    read = [s for f in families.values() if f.type in ("gauge", "counter") for s in f.samples]
    assert sorted(s.value for s in read if s.labels == {"source": "s"}) == [1, 2, 2, 4, 5, 6]


def openmetrics(monitor):
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(monitor))
    return list(openmetrics_families(generate_openmetrics(registry).decode()))


@pytest.mark.parametrize("values", [[0.1] * 10 + [0.0, 0.3], [1 / 3, 0.0] * 50, [1e-9, 1e9] * 50])
def test_sums_and_counts_never_fall(values):
    monitor, before = ContextWindowMonitor(), (0, 0.0)
    for count, value in enumerate(values, 1):
        monitor.record_metric("x", value)
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(prometheus_text(monitor))
            for sample in family.samples
        }
        now = samples["transom_x_count"], samples["transom_x_sum"]
        assert now[0] == count
        assert now >= before
        before = now
    assert now[1] == pytest.approx(sum(values), rel=1e-12)


def test_monitors_in_one_registry_need_a_prefix_each():
    registry, first, second = CollectorRegistry(), ContextWindowMonitor(), ContextWindowMonitor()
    registry.register(PrometheusCollector(first))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(PrometheusCollector(second))
    registry.register(PrometheusCollector(second, prefix="other"))
    first.record_metric("x", 1)
    second.record_metric("x", 2)
    assert registry.get_sample_value("transom_x_sum") == 1
    assert registry.get_sample_value("other_x_sum") == 2
    with pytest.raises(InputError, match="expected letters"):
        PrometheusCollector(first, prefix="a b")


@pytest.mark.parametrize(
    ("stats", "errors", "left"),
    [
        (OSError, 1, set()),
        (ZeroDivisionError, 1, set()),
        ({"bytes": 3, "hits": float("inf"), "a b": 1}, 2, {"memory_usage"}),
        ({"bytes": 3, "memory_usage": 4, "x": 10**400}, 2, {"memory_usage"}),
        ({"bytes": 3, "hits": -1}, 1, {"memory_usage"}),
    ],
    ids=["OSError", "ZeroDivisionError", "not finite", "twice", "below 0"],
)
def test_a_failing_source_does_not_affect_the_others(caplog, stats, errors, left):
    monitor, window, source = ContextWindowMonitor(), ContextWindow(4), Source(bytes=1, hits=2)
    monitor.attach(source, "s")
    monitor.attach(window, "w", timed=False)
    monitor.record_metric("mine", 1.0)
    monitor.poll()
    source.given = stats
    for _ in range(3):  # one scrape after another
        text = prometheus_text(monitor)
    assert "transom_mine_sum 1.0" in text
    assert 'transom_window_size_tokens{source="w"} 0.0' in text
    assert f'transom_read_errors_total{{source="s"}} {3 * errors:.1f}' in text
    assert len(caplog.records) == 1
    assert "s cannot be read" in caplog.text
    # A number that could not be read is left out; its former value is not repeated.
    found = {one.name for one in monitor.snapshot() if ("source", "s") in one.labels}
    assert found == {*left, "read_errors"}
    source.given = {"bytes": 3, "hits": 4}
    assert 'transom_hits_total{source="s"} 4.0' in prometheus_text(monitor)
    assert len(caplog.records) == 1
    source.given = stats
    monitor.poll()
    assert len(caplog.records) == 2


def test_numbers_beyond_max_series_are_left_out_and_counted(caplog):
    monitor, window, source = ContextWindowMonitor(30), ContextWindow(4), Source(bytes=1)
    monitor.attach(source, "s")
    monitor.attach(window, "w", timed=False)
    source.given = {f"x{at}": at for at in range(1000)}
    for at in range(5):
        source.given[f"y{at}"] = 0
        found = {one.name for one in monitor.snapshot()}
        assert {"x0", "window_size", "read_errors"} <= found
        assert len(found) <= 30
    assert "max_series" in caplog.text
    monitor.detach("s")
    monitor.attach(Source(bytes=1), "s")


def test_json_lines_that_cannot_be_written(monitor, tmp_path):
    with pytest.raises(InputError, match="cannot write metrics"), JsonLines(monitor, tmp_path):
        pass
    for every in (0, -1, float("nan"), float("inf"), 1e12, "1", None, True):
        with pytest.raises(InputError, match="every is"):
            JsonLines(monitor, tmp_path / "m", every=every)
    for path in (None, 5, b"m", "a\0b"):
        with pytest.raises(InputError, match="expected the path of a file"):
            JsonLines(monitor, path)


def test_totals_never_fall_even_if_the_number_read_does():
    monitor, source = ContextWindowMonitor(), Source(hits=0)
    monitor.attach(source, "s")
    found = []
    for hits in (100, 60, 110, 5, 5, 0.1, 0.2, 0.3):
        source.given = {"hits": hits}
        lines = prometheus_text(monitor).splitlines()
        found += [float(x.split()[1]) for x in lines if x.startswith("transom_hits_total{")]
    assert found == pytest.approx([100, 100, 150, 150, 150, 150, 150.1, 150.2])
    assert found == sorted(found)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "transom.monitor.prometheus")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'transom\[monitor\]'"):
        import transom.monitor.prometheus  # noqa: F401


def test_a_fork_records_for_itself_and_leaves_the_file_alone(monitor, tmp_path):
    path = tmp_path / "metrics.jsonl"

    def in_the_fork():
        for _ in range(2000):  # more values than the buffer holds
            monitor.record_metric("processing_time", 4.0)
        lines.__exit__(None, None, None)
        return monitor.get_statistics("processing_time")["count"]

    lines = JsonLines(monitor, path, every=1000)
    with lines, monitor._lock, monitor.series("processing_time")._lock:
        assert in_a_fork(in_the_fork) == 2004  # even while a thread of the parent holds the locks
        assert path.read_text() == ""
    assert monitor.get_statistics("processing_time")["count"] == 4
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(InputError, match=r"metrics\.jsonl belongs to process"):
        in_a_fork(lines.__enter__)
