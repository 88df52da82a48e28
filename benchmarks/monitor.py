"""Recording a metric costs less than a microsecond, and a monitor that is not attached nothing.

1. A recorded value, all summing up included, by `record_metric` (with and without a label) and by
   a series' `record`, against the guide's `list.append` and against `prometheus_client`'s summary,
   which has no percentiles;
2. the percentiles of a million recorded values against exact ones, and the memory they take;
3. `add_tokens` on a window that is attached, over one that is not, and on one that is not while
   another is, over the same without any monitor.

Run `python benchmarks/monitor.py`, or with the numbers of the claims to run.
"""

from __future__ import annotations

import tracemalloc
from statistics import median
from typing import Any

import numpy as np
from _measure import interleaved, ratio, run_claims
from prometheus_client import CollectorRegistry, Summary

from transom import ContextWindow, ContextWindowMonitor

VALUES = 100_000
IDS = np.arange(16)


def overhead() -> dict[str, Any]:
    monitor = ContextWindowMonitor()
    record, labelled = monitor.record_metric, monitor.record_metric
    bound = monitor.series("bound").record
    values: list[float] = []
    peer = Summary("seconds", "of something", registry=CollectorRegistry()).observe
    some = np.random.default_rng(0).lognormal(size=VALUES).tolist()

    def by_name() -> None:
        for value in some:
            record("processing_time", value)

    def by_label() -> None:
        for value in some:
            labelled("processing_time", value, tenant="alice")

    def by_series() -> None:
        for value in some:
            bound(value)

    def by_list() -> None:
        values.clear()
        for value in some:
            values.append(value)

    def by_peer() -> None:
        for value in some:
            peer(value)

    def nothing() -> None:
        for _ in some:
            pass

    steps = {
        "record_metric": by_name,
        "record_metric, a label": by_label,
        "series.record": by_series,
        "list.append": by_list,
        "prometheus_client": by_peer,
        "an empty loop": nothing,
    }
    seconds = interleaved(steps, 15, warm=2)
    loop = min(seconds["an empty loop"])
    return {
        "claim": "a recorded value takes less than 1 us",
        "nanoseconds each, at best": {
            name: round((min(seconds[name]) - loop) / VALUES * 1e9) for name in steps
        },
        "nanoseconds each, median": {
            name: round((median(seconds[name]) - loop) / VALUES * 1e9) for name in steps
        },
        "record_metric over prometheus_client": ratio(
            seconds, "record_metric", "prometheus_client"
        ),
        "goal": "< 1000 ns",
    }


def percentiles() -> dict[str, Any]:
    values = np.random.default_rng(0).lognormal(0, 2, 1_000_000)
    tracemalloc.start()
    monitor = ContextWindowMonitor()
    record = monitor.series("processing_time").record
    before = tracemalloc.get_traced_memory()[0]
    for value in values[:100_000].tolist():
        record(value)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for value in values[100_000:].tolist():
        record(value)
    found = monitor.get_statistics("processing_time")
    ranks = {name: float(np.mean(values <= found[name])) for name in ("p50", "p90", "p99")}
    return {
        "claim": "percentiles of a million values in bounded memory",
        "rank of what was found": ranks,
        "mean over the exact one": found["mean"] / float(values.mean()),
        "std over the exact one": found["std"] / float(values.std()),
        "bytes that Python has allocated more after 100,000 values": grown,
    }


def attached() -> dict[str, Any]:
    monitor = ContextWindowMonitor()
    plain, other, watched, read = (ContextWindow(512) for _ in range(4))

    def adding(window: ContextWindow) -> Any:
        def add() -> None:
            for _ in range(2000):
                window.add_tokens(IDS)

        return add

    before = interleaved({"a": adding(plain), "b": adding(other)}, 31)
    monitor.attach(watched)
    monitor.attach(read, timed=False)
    steps = {
        "plain": adding(plain),
        "other": adding(other),
        "watched": adding(watched),
        "read": adding(read),
    }
    after = interleaved(steps, 31)
    return {
        "claim": "add_tokens costs nothing more without a monitor, and a call more with one",
        "two windows before anything was attached": ratio(before, "a", "b"),
        "not attached, over another that is not": ratio(after, "other", "plain"),
        "attached with timed=False, over not attached": ratio(after, "read", "plain"),
        "attached, over not attached": ratio(after, "watched", "plain"),
        "nanoseconds more per call, attached": round(
            (median(after["watched"]) - median(after["plain"])) / 2000 * 1e9
        ),
    }


if __name__ == "__main__":
    run_claims("monitor", (overhead, percentiles, attached))
