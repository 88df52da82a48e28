"""A monitor's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from transom.errors import MissingExtraError
from transom.monitor.monitor import ContextWindowMonitor, Measured
from transom.monitor.series import QUANTILES

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"Prometheus needs {error.name}, which is not installed: pip install 'transom[monitor]'"
    ) from error

__all__ = ["PrometheusCollector", "prometheus_text"]

UNITS = {
    "memory_usage": "_bytes",
    "processing_time": "_seconds",
    "window_size": "_tokens",
}


class PrometheusCollector(Collector):
    """Gives a monitor's metrics to a `prometheus_client` registry, read at each scrape.

    Recorded values are summaries with quantiles of all values so far, and a gauge of the last one
    (`_last`); what only grows is a counter. Names begin with `transom_` and end in their unit.

    ```
    from prometheus_client import REGISTRY, start_http_server
    REGISTRY.register(PrometheusCollector(monitor))
    start_http_server(9090)
    ```
    """

    def __init__(self, monitor: ContextWindowMonitor) -> None:
        self._monitor = monitor

    def describe(self) -> list[Metric]:
        """Nothing beforehand: what there is turns out with use."""
        return []

    def collect(self) -> Iterator[Metric]:
        by_name: dict[tuple[str, bool], list[Measured]] = {}
        for one in self._monitor.snapshot():
            by_name.setdefault((one.name, one.total), []).append(one)
        for (name, total), several in by_name.items():
            known = f"transom_{name}{UNITS.get(name, '')}"
            yield from _counter(known, several) if total else _summary(known, several)


def prometheus_text(monitor: ContextWindowMonitor) -> str:
    """A monitor's metrics as Prometheus reads them, for serving with anything.

    >>> monitor = ContextWindowMonitor()
    >>> monitor.record_metric("window_size", 512)
    >>> print(prometheus_text(monitor).splitlines()[-1])
    transom_window_size_tokens_last 512.0
    """
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(monitor))
    return generate_latest(registry).decode()


def _counter(name: str, several: list[Measured]) -> Iterator[Metric]:
    counter = Metric(name, f"{name}, so far", "counter")
    for one in several:
        counter.add_sample(f"{name}_total", dict(one.labels), one.statistics["last"])
    yield counter


def _summary(name: str, several: list[Measured]) -> Iterator[Metric]:
    summary = Metric(name, f"{name}, all values so far", "summary")
    last = Metric(f"{name}_last", f"{name}, the last value", "gauge")
    for one in several:
        labels, statistics = dict(one.labels), one.statistics
        for key, quantile in QUANTILES.items():
            summary.add_sample(name, {**labels, "quantile": str(quantile)}, statistics[key])
        count = statistics["count"]
        summary.add_sample(f"{name}_count", labels, count)
        summary.add_sample(f"{name}_sum", labels, statistics["mean"] * count)
        last.add_sample(f"{name}_last", labels, statistics["last"])
    yield summary
    yield last
