"""A metric at one moment, as exporters get it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from transom.monitor.names import Labels

__all__ = ["Kind", "Measured"]

Kind = Literal["recorded", "read", "total"]


class Measured(NamedTuple):
    """A metric at one moment.

    Attributes:
        name: of the metric.
        labels: which of several metrics of that name it is, by name of label.
        kind: `recorded` for values given to `record_metric`; for attached objects `read` when the
            number rises and falls, and `total` when it only grows.
        statistics: those of `get_statistics`; for a total only `last`.
    """

    name: str
    labels: Labels
    kind: Kind
    statistics: dict[str, float]
