"""The values of sources that are no longer attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from transom.monitor.names import Key
from transom.monitor.series import Series

__all__ = ["RetiredSeries"]


class RetiredSeries:
    """Series of sources that are no longer attached, merged by name and by the label `call`.

    Notes:
        Not safe for use from several threads: the monitor holds its lock.
    """

    def __init__(self) -> None:
        self._series: dict[Key, Series] = {}

    def items(self) -> Iterable[tuple[Key, Series]]:
        """Key and values of each series, the one that was retired first at the start."""
        return self._series.items()

    def add(self, series: Mapping[Key, Series]) -> None:
        """Take over the values of these series; of their labels only `call` is kept."""
        for (name, labels), one in series.items():
            key = (name, tuple(label for label in labels if label[0] == "call"))
            if key in self._series:
                self._series[key].absorb(one)
            else:
                self._series[key] = one

    def limit(self, most: int) -> None:
        """Keep at most `most` series; those retired first are forgotten first."""
        while len(self._series) > most:
            del self._series[next(iter(self._series))]
