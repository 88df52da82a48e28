"""Metrics as Prometheus and as lines of JSON read them."""

from __future__ import annotations

import json
import sys
import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.forking import in_a_fork
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


def test_a_registry_reads_anew_at_each_scrape(monitor):
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


def test_what_fails_while_writing_is_raised_at_the_end(monitor, tmp_path):
    class Broken:
        broken = False

        def stats(self):
            if self.broken:
                raise OSError("the disk is gone")
            return {"bytes": 1}

    source = Broken()
    monitor.attach(source)
    writing = JsonLines(monitor, tmp_path / "m.jsonl", every=0.01)
    writing.__enter__()
    source.broken = True
    writing._thread.join(timeout=10)
    with pytest.raises(OSError, match="the disk is gone"):
        writing.__exit__(None, None, None)


def test_json_lines_that_cannot_be_written(monitor, tmp_path):
    with pytest.raises(InputError, match="cannot write metrics"), JsonLines(monitor, tmp_path):
        pass
    for every in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="every is"):
            JsonLines(monitor, tmp_path / "m", every=every)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "transom.monitor.prometheus")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'transom\[monitor\]'"):
        import transom.monitor.prometheus  # noqa: F401


def test_a_fork_records_for_itself_and_leaves_the_file_alone(monitor, tmp_path):
    path = tmp_path / "metrics.jsonl"

    def in_the_fork():
        for _ in range(2000):  # more than wait to be summed up
            monitor.record_metric("processing_time", 4.0)
        lines.__exit__(None, None, None)
        return monitor.get_statistics("processing_time")["count"]

    lines = JsonLines(monitor, path, every=1000)
    with lines, monitor._lock, monitor.series("processing_time")._lock:
        assert in_a_fork(in_the_fork) == 2004  # although a thread may hold the locks
        assert path.read_text() == ""
    assert monitor.get_statistics("processing_time")["count"] == 4
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(InputError, match=r"metrics\.jsonl belongs to process"):
        in_a_fork(lines.__enter__)
