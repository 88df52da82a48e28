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

    What is recorded is a summary with quantiles of all values so far; what is read off attached
    objects is a gauge, or a counter where it only grows. Names begin with `transom_` and end in
    their unit; where values of one name are both recorded and read, those recorded have
    `_recorded` behind it.

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
        families: dict[tuple[str, str], list[Measured]] = {}
        for one in self._monitor.snapshot():
            families.setdefault((one.name, one.kind), []).append(one)
        for (name, kind), several in families.items():
            known = f"transom_{name}{UNITS.get(name, '')}"
            if kind == "recorded":
                yield _summary(
                    f"{known}_recorded" if (name, "read") in families else known, several
                )
            else:
                yield _last(known, several, "gauge" if kind == "read" else "counter")


def prometheus_text(monitor: ContextWindowMonitor) -> str:
    """A monitor's metrics as Prometheus reads them, for serving with anything.

    >>> monitor = ContextWindowMonitor()
    >>> monitor.record_metric("window_size", 512)
    >>> print(prometheus_text(monitor).splitlines()[-1])
    transom_window_size_tokens_sum 512.0
    """
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(monitor))
    return generate_latest(registry).decode()


def _last(name: str, several: list[Measured], kind: str) -> Metric:
    metric = Metric(name, f"{name}, now" if kind == "gauge" else f"{name}, so far", kind)
    sample = name if kind == "gauge" else f"{name}_total"
    for one in several:
        metric.add_sample(sample, dict(one.labels), one.statistics["last"])
    return metric


def _summary(name: str, several: list[Measured]) -> Metric:
    metric = Metric(name, f"{name}, all values so far", "summary")
    for one in several:
        labels, statistics = dict(one.labels), one.statistics
        for key, quantile in QUANTILES.items():
            metric.add_sample(name, {**labels, "quantile": str(quantile)}, statistics[key])
        count = statistics["count"]
        metric.add_sample(f"{name}_count", labels, count)
        metric.add_sample(f"{name}_sum", labels, statistics["mean"] * count)
    return metric
