"""What goes on, as numbers: recorded by whoever has them, or read off what was attached."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Literal, NamedTuple

from transom.checks import whole_number
from transom.errors import InputError
from transom.forks import ThreadLock
from transom.monitor.readings import readings, timed_calls
from transom.monitor.series import Series, merged
from transom.monitor.watched import unwatch, watch

__all__ = ["ContextWindowMonitor", "Measured"]

TIME = "processing_time"
GUIDES = ("window_size", "memory_usage", TIME)  # tokens, bytes, seconds
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = tuple[tuple[str, str], ...]


class Measured(NamedTuple):
    """A metric at one moment.

    Attributes:
        name: of the metric.
        labels: which of several of that name it is, by name of label.
        kind: `recorded` by `record_metric`, or of something attached: `read` at each poll, or a
            `total` that only grows.
        statistics: as of `get_statistics`; of a total only `last`.
    """

    name: str
    labels: Labels
    kind: Literal["recorded", "read", "total"]
    statistics: dict[str, float]


class Attached(NamedTuple):
    source: weakref.ref[Any]
    labels: Labels


class ContextWindowMonitor:
    """Metrics of windows, contexts, corpora and memory managers, in bounded memory.

    Values are recorded by name, and by labels if wanted; of each there are mean, deviation,
    extremes and percentiles at any time. What is attached is read whenever the monitor is polled,
    which exporters do. Nothing else knows of a monitor: without one, there is nothing to skip.

    Args:
        max_series: most combinations of a name and labels, each of which takes up to 64 kB.

    Raises:
        InputError: on settings that make no sense.
        MissingExtraError: when `transom[monitor]` is not installed.

    Notes:
        Safe for use from several threads, and in a fork, which has a copy of its own. Polling
        reads attached objects in the thread that polls; what it reads of one that another thread
        is changing may be of before or after the change.

    >>> monitor = ContextWindowMonitor()
    >>> for seconds in (0.5, 1.0, 1.5):
    ...     monitor.record_metric("processing_time", seconds)
    >>> statistics = monitor.get_statistics("processing_time")
    >>> statistics["mean"], statistics["min"], statistics["max"], statistics["p50"]
    (1.0, 0.5, 1.5, 1.0)
    """

    def __init__(self, max_series: int = 1000) -> None:
        owner = type(self).__name__
        self.max_series = whole_number(owner, "max_series", max_series, len(GUIDES), unit="series")
        self._lock = ThreadLock()
        self._series: dict[tuple[str, Labels], Series] = {}
        self._read: set[tuple[str, Labels]] = set()
        self._totals: dict[tuple[str, Labels], float] = {}
        self._attached: dict[str, Attached] = {}
        for name in GUIDES:
            self.series(name)

    def record_metric(self, name: str, value: float, /, **labels: str) -> None:
        """Record a value of the metric `name`; tokens, bytes and seconds are the usual units.

        Raises:
            InputError: on a name or label that is not of letters, digits and underscores, a value
                that is not a finite number, or more series than `max_series`.
        """
        # As it is most often: there is one, and labels are strings in their order.
        series = self._series.get((name, tuple(labels.items()) if labels else ()))
        if series is None:
            series = self.series(name, **labels)
        series.record(value)

    def series(self, name: str, /, **labels: str) -> Series:
        """What `record_metric` records to, for calling its `record` many times.

        Raises:
            InputError: as `record_metric`.
        """
        key = (name, tuple(sorted((label, str(value)) for label, value in labels.items())))
        series = self._series.get(key)
        if series is None:
            with self._lock:
                self._check(key)
                series = self._series.setdefault(key, Series())
        return series

    def get_statistics(self, name: str, /, **labels: str) -> dict[str, float]:
        """Of all values recorded under `name`, and with these labels among theirs if any are given.

        Returns:
            `count`, `mean`, `std` (of all values, not of a sample), `min`, `max`, `last`, `p50`,
            `p90`, `p99`, and `rate`, values a second over the last minute. Empty when there are no
            values.

        Raises:
            InputError: when there is no such metric, listing those there are.
        """
        wanted = {(label, str(value)) for label, value in labels.items()}
        with self._lock:
            known = list(self._series.items())
        if all(key[0] != name for key, _ in known):
            names = sorted({key[0] for key, _ in known})
            raise InputError(f"no metric is called {name!r}; there are {', '.join(names)}.")
        chosen = [series for key, series in known if key[0] == name and wanted <= set(key[1])]
        if len(chosen) == 1:
            return chosen[0].statistics()
        statistics = merged(chosen).statistics()
        return statistics and {**statistics, "rate": sum(one.rate() for one in chosen)}

    @contextmanager
    def timed(self, name: str = TIME, /, **labels: str) -> Iterator[None]:
        """Record the seconds that a `with` block takes."""
        series = self.series(name, **labels)
        began = perf_counter()
        try:
            yield
        finally:
            series.record(perf_counter() - began)

    def attach(self, source: Any, name: str | None = None, *, timed: bool = True) -> str:
        """Watch a token window, a `Context`, a corpus or a memory manager until it is gone.

        Its numbers are read at each `poll`. With `timed`, calls of this one object such as
        `add_tokens` or `get_context` record how long they take, as `processing_time`; to that end
        the object gets a class of its own, derived from the one it has.

        Args:
            source: what to watch; it is not kept alive.
            name: value of the label `source`; the name of its class by default, with a number
                where that is taken.
            timed: whether its calls are timed. Otherwise nothing about it changes.

        Returns:
            The name, with which it can be detached.

        Raises:
            InputError: when it is nothing that can be watched, or the name is taken.
        """
        readings(source)  # refuse now what could not be read later
        with self._lock:
            self._forget_gone()
            known = self._attached
            if any(one.source() is source for one in known.values()):
                raise InputError(f"{source!r} is attached already.")
            if name is None:
                kind = type(source).__name__
                several = (f"{kind}-{at}" for at in range(2, len(known) + 3))
                name = kind if kind not in known else next(x for x in several if x not in known)
            elif name in known:
                raise InputError(f"{name!r} is attached already; give another name.")
            calls = timed_calls(source) if timed else []
            if calls:
                each = {call: self.series(TIME, source=name, call=call) for call in calls}
                watch(source, each)
            known[name] = Attached(weakref.ref(source), (("source", name),))
            return name

    def detach(self, name: str) -> None:
        """Stop watching what was attached under `name`; what was recorded stays.

        Raises:
            InputError: when nothing is attached under it.
        """
        with self._lock:
            attached = self._attached.pop(name, None)
        if attached is None:
            raise InputError(f"nothing is attached as {name!r}.")
        source = attached.source()
        if source is not None:
            unwatch(source)

    def poll(self) -> None:
        """Read everything attached, now, and record it."""
        with self._lock:
            self._forget_gone()
            for attached in self._attached.values():
                source = attached.source()
                for reading in readings(source) if source is not None else ():
                    labels = tuple(sorted((*attached.labels, *reading.labels)))
                    if reading.counted:
                        self._check((reading.name, labels))
                        self._totals[reading.name, labels] = reading.value
                    else:
                        self.series(reading.name, **dict(labels)).record(reading.value)
                        self._read.add((reading.name, labels))

    def snapshot(self) -> list[Measured]:
        """Every metric that has values, after a `poll`, by name and labels."""
        self.poll()
        with self._lock:
            series, totals = list(self._series.items()), list(self._totals.items())
        found = [
            Measured(*key, "read" if key in self._read else "recorded", statistics)
            for key, one in series
            if (statistics := one.statistics())
        ]
        found += [Measured(*key, "total", {"last": value}) for key, value in totals]
        return sorted(found, key=lambda one: one[:3])

    def _forget_gone(self) -> None:
        for name in [name for name, one in self._attached.items() if one.source() is None]:
            del self._attached[name]

    def _check(self, key: tuple[str, Labels]) -> None:
        """Whether a new series may have this name and these labels."""
        if key in self._totals:
            return
        name, labels = key
        for text in (name, *(label for label, _ in labels)):
            if not (isinstance(text, str) and NAME.fullmatch(text)):
                raise InputError(
                    f"{text!r} was given as the name of a metric or label; expected letters, "
                    "digits and underscores, and no digit first."
                )
        if len(self._series) + len(self._totals) >= self.max_series:
            raise InputError(
                f"{name!r} with labels {dict(labels)!r} would be series number "
                f"{self.max_series + 1:,}; max_series is {self.max_series:,}. Labels should take "
                "few different values: tenants perhaps, requests not."
            )
