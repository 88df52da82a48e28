"""What goes on, as numbers: recorded by whoever has them, or read off what was attached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Literal, NamedTuple

from transom.errors import InputError, TransomError
from transom.forks import ThreadLock
from transom.monitor.attached import Attached
from transom.monitor.names import Key, Labels, key_of, named
from transom.monitor.readings import readings, timed_calls
from transom.monitor.series import Series, merged
from transom.monitor.watched import unwatch, watch
from transom.validation import known_keywords, whole_number

__all__ = ["ContextWindowMonitor", "Measured"]

TIME = "processing_time"
GUIDES = ("window_size", "memory_usage", TIME)  # tokens, bytes, seconds

Kind = Literal["recorded", "read", "total"]


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
    kind: Kind
    statistics: dict[str, float]


@known_keywords
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
        self._series: dict[Key, Series] = {}
        self._gone: dict[Key, Series] = {}  # of sources no longer attached, without their labels
        self._attached: dict[str, Attached] = {}
        for name in GUIDES:
            self.series(name)

    def __repr__(self) -> str:
        with self._lock:
            attached = ", ".join(self._attached) or "nothing"
            taken = self._taken()
        return f"<{type(self).__name__}: {taken:,} series, {attached} attached>"

    def record_metric(self, name: str, value: float, /, **labels: str) -> None:
        """Record a value of the metric `name`; tokens, bytes and seconds are the usual units.

        Raises:
            InputError: on a name or label that is not of letters, digits and underscores, the
                label `quantile` and those that begin with `__`, which Prometheus needs for itself,
                a value that is not a finite number, or more series than `max_series`.
        """
        # As it is most often: there is one, and labels are strings in their order.
        try:
            series = self._series.get((name, tuple(labels.items()) if labels else ()))
        except TypeError:  # of what cannot be hashed, its text can
            series = None
        if series is None:
            series = self.series(name, **labels)
        series.record(value)

    def series(self, name: str, /, **labels: str) -> Series:
        """What `record_metric` records to, for calling its `record` many times.

        Raises:
            InputError: as `record_metric`.
        """
        key = key_of(name, labels.items())
        series = self._series.get(key) if isinstance(name, str) else None
        if series is None:
            named(key)
            with self._lock:
                self._make_room(1, f"{name!r} with labels {dict(key[1])!r}")
                series = self._series.setdefault(key, Series())
        return series

    def get_statistics(self, name: str, /, **labels: str) -> dict[str, float]:
        """Of all values recorded under `name`, and with these labels among theirs if any are given.

        Values of what is no longer attached count too, as long as `max_series` leaves room for
        them; of their labels only `call` is kept.

        Returns:
            `count`, `sum`, `mean`, `std` (of all values, not of a sample), `min`, `max`, `last`,
            `p50`, `p90`, `p99`, and `rate`, values a second over the last minute. Empty when there
            are no values.

        Raises:
            InputError: when there is no such metric, listing those there are.
        """
        wanted = {(label, str(value)) for label, value in labels.items()}
        with self._lock:
            known = [*self._gone.items(), *self._series.items()]
            for attached in self._attached.values():
                known += attached.gauges.items()
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
        if not (name is None or isinstance(name, str)):
            raise InputError(f"name is {name!r} ({type(name).__name__}); expected text.")
        try:
            found = readings(source)
        except TransomError:
            raise
        except Exception as error:
            raise InputError(
                f"{type(source).__name__} cannot be attached: reading it raised "
                f"{type(error).__name__}: {error}."
            ) from error
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
            calls = {
                call: key_of(TIME, (("source", name), ("call", call)))
                for call in (timed_calls(source) if timed else ())
            }
            attached = Attached(name, source, calls.values(), len(found))
            for key in (*calls.values(), *map(attached.key, found)):
                named(key)
            new = [key for key in calls.values() if key not in self._series]
            self._make_room(len(new) + len(found), f"attaching {name!r}")
            if calls:
                each = {call: self._series.get(key) or Series() for call, key in calls.items()}
                watch(source, each)
                attached.watch = each
                self._series.update((calls[call], series) for call, series in each.items())
            known[name] = attached
            return name

    def detach(self, name: str) -> None:
        """Stop watching what was attached under `name`; its values stay in the statistics.

        Raises:
            InputError: when nothing is attached under it.
        """
        with self._lock:
            attached = self._attached.pop(name, None) if isinstance(name, str) else None
            if attached is None:
                raise InputError(f"nothing is attached as {name!r}.")
            source = attached.source()
            if source is not None:
                unwatch(source, attached.watch)
            self._retire(attached)

    def poll(self) -> None:
        """Read everything attached, now, and record it.

        What cannot be read takes nothing else away: it is told to the log (`transom`) once and
        counted in `read_errors`, with its name as `source`, until it can be read again.
        """
        with self._lock:
            self._forget_gone()
            room = self.max_series - self._taken()
            for attached in self._attached.values():
                held = len(attached)
                self._absorb(attached.poll(held + room))
                room -= len(attached) - held
            self._keep_gone(room)

    def snapshot(self) -> list[Measured]:
        """Every metric that has values, after a `poll`, by name and labels."""
        with self._lock:
            self.poll()
            attached, recorded = list(self._attached.values()), list(self._series.items())
            found = [one for source in attached for one in _read(source)]
        found += [
            Measured(*key, "recorded", statistics)
            for key, series in recorded
            if (statistics := series.statistics())
        ]
        return sorted(found, key=lambda one: one[:3])

    def _taken(self) -> int:
        return len(self._series) + sum(len(one) for one in self._attached.values())

    def _make_room(self, count: int, what: str) -> None:
        """Make sure that there may be `count` more series; what is gone makes room for them.

        Raises:
            InputError: when those in use leave too little.
        """
        if self._taken() + count > self.max_series:
            self._forget_gone()
        taken = self._taken()
        if taken + count > self.max_series:
            raise InputError(
                f"{what} would need series number {taken + count:,}; max_series is "
                f"{self.max_series:,}. Labels should take few different values: tenants perhaps, "
                "requests not. Detach what need not be watched, or give a larger max_series."
            )
        self._keep_gone(self.max_series - taken - count)

    def _keep_gone(self, most: int) -> None:
        while len(self._gone) > most:
            del self._gone[next(iter(self._gone))]  # the first that came to be gone

    def _forget_gone(self) -> None:
        for name in [name for name, one in self._attached.items() if one.source() is None]:
            self._retire(self._attached.pop(name))

    def _retire(self, attached: Attached) -> None:
        """Keep the values of a source that is no longer attached, and none of its series."""
        timed = {key: self._series.pop(key) for key in attached.calls if key in self._series}
        self._absorb({**timed, **attached.gauges})

    def _absorb(self, series: Mapping[Key, Series]) -> None:
        for (name, labels), one in series.items():
            key = (name, tuple(label for label in labels if label[0] == "call"))
            if key in self._gone:
                self._gone[key].absorb(one)
            else:
                self._gone[key] = one


def _read(attached: Attached) -> Iterator[Measured]:
    """What the last poll read off a source."""
    if attached.readable:
        for key, series in attached.gauges.items():
            yield Measured(*key, "read", series.statistics())
        for key, value in attached.totals.items():
            yield Measured(*key, "total", {"last": value})
    if attached.errors:
        labels = (("source", attached.name),)
        yield Measured("read_errors", labels, "total", {"last": attached.errors})
