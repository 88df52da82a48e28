"""A monitor's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from transom.errors import MissingExtraError
from transom.monitor.measured import Kind, Measured
from transom.monitor.monitor import GUIDES, ContextWindowMonitor
from transom.monitor.names import named
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

ORDER: tuple[Kind, ...] = ("total", "read", "recorded")  # the first takes a name, others give way
TYPES = {"total": "counter", "read": "gauge", "recorded": "summary"}
MEANING = {"total": "so far", "read": "now", "recorded": "all values so far"}
SUFFIXES = {
    "counter": ("_total", "_created"),
    "gauge": (),
    "summary": ("_sum", "_count", "_created"),
}


class PrometheusCollector(Collector):
    """A `prometheus_client` collector that polls a monitor at each scrape.

    Recorded values become a summary with quantiles of all values so far. Numbers read from
    attached objects become a gauge, or a counter when they only grow. Names begin with `prefix`
    and end in their unit. When values of one name are both recorded and read, the recorded ones
    get the suffix `_recorded`. A summary's sum and count never fall as long as no recorded value
    is negative.

    Args:
        monitor: the monitor to poll.
        prefix: the start of all names. Give each monitor in one registry its own: the registry
            refuses a second collector with the same names.

    Raises:
        InputError: when the prefix is not made of letters, digits and underscores.

    ```
    from prometheus_client import REGISTRY, start_http_server
    REGISTRY.register(PrometheusCollector(monitor))
    start_http_server(9090)
    ```
    """

    def __init__(self, monitor: ContextWindowMonitor, prefix: str = "transom") -> None:
        named((prefix, ()))
        self._monitor, self._prefix = monitor, prefix

    def describe(self) -> list[Metric]:
        """The metrics that every monitor has; others appear with use."""
        return [Metric(self._name(name), name, "summary") for name in GUIDES]

    def collect(self) -> Iterator[Metric]:
        families: dict[tuple[Kind, str], list[Measured]] = {}
        for one in self._monitor.snapshot():
            families.setdefault((one.kind, one.name), []).append(one)
        taken: set[str] = set()
        for kind, name in sorted(families, key=lambda family: (ORDER.index(family[0]), family[1])):
            metric = Metric(self._name(name), f"{name}, {MEANING[kind]}", TYPES[kind])
            while not taken.isdisjoint(_names(metric)):
                metric.name += f"_{kind}"
            taken.update(_names(metric))
            for one in families[kind, name]:
                _add(metric, one)
            yield metric

    def _name(self, name: str) -> str:
        return f"{self._prefix}_{name}{UNITS.get(name, '')}"


def prometheus_text(monitor: ContextWindowMonitor) -> str:
    """A monitor's metrics in the text format of Prometheus, to serve from any web server.

    >>> monitor = ContextWindowMonitor()
    >>> monitor.record_metric("window_size", 512)
    >>> print(prometheus_text(monitor).splitlines()[-1])
    transom_window_size_tokens_sum 512.0
    """
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(monitor))
    return generate_latest(registry).decode()


def _names(metric: Metric) -> set[str]:
    """Every name that the series of a metric use, or that OpenMetrics reserves for them."""
    return {metric.name + suffix for suffix in ("", *SUFFIXES[metric.type])}


def _add(metric: Metric, one: Measured) -> None:
    """Add the samples of one combination of labels."""
    name, labels, statistics = metric.name, dict(one.labels), one.statistics
    if one.kind == "read":
        metric.add_sample(name, labels, statistics["last"])
    elif one.kind == "total":
        metric.add_sample(f"{name}_total", labels, statistics["last"])
    else:
        for key, quantile in QUANTILES.items():
            metric.add_sample(name, {**labels, "quantile": str(quantile)}, statistics[key])
        metric.add_sample(f"{name}_count", labels, statistics["count"])
        metric.add_sample(f"{name}_sum", labels, statistics["sum"])
