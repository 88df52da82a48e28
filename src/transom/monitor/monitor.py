"""Metrics of windows, contexts, corpora and memory managers: recorded, or read at each poll."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from transom.errors import InputError, TransomError
from transom.forks import ThreadLock
from transom.monitor.attached import Attached
from transom.monitor.measured import Measured
from transom.monitor.names import Key, key_of, named
from transom.monitor.readings import readings, timed_calls
from transom.monitor.retired import RetiredSeries
from transom.monitor.series import Series, merged
from transom.monitor.watched import unwatch, watch
from transom.validation import known_keywords, whole_number

__all__ = ["GUIDES", "ContextWindowMonitor"]

TIME = "processing_time"
GUIDES = ("window_size", "memory_usage", TIME)  # in tokens, bytes and seconds


@known_keywords
class ContextWindowMonitor:
    """Metrics of windows, contexts, corpora and memory managers, in bounded memory.

    Record values under a name, with labels if you want; mean, deviation, extremes and percentiles
    of each are there at any time. Attached objects are read whenever the monitor is polled, which
    exporters do. No other part of transom knows of a monitor.

    Args:
        max_series: the most combinations of a name and labels; each takes up to 64 kB.

    Raises:
        InputError: when `max_series` makes no sense.
        MissingExtraError: when `transom[monitor]` is not installed.

    Notes:
        Safe for use from several threads, and in a fork, which has a copy of its own. Polling
        reads attached objects in the thread that polls. While another thread changes an object,
        a reading may be of before or after the change.

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
        self._retired = RetiredSeries()
        self._attached: dict[str, Attached] = {}
        for name in GUIDES:
            self.series(name)

    def __repr__(self) -> str:
        with self._lock:
            attached = ", ".join(self._attached) or "nothing"
            taken = self._taken()
        return f"<{type(self).__name__}: {taken:,} series, {attached} attached>"

    def record_metric(self, name: str, value: float, /, **labels: str) -> None:
        """Record a value of the metric `name`, usually in tokens, bytes or seconds.

        Raises:
            InputError: when a name or label is not made of letters, digits and underscores; when a
                label is `quantile` or begins with `__`, which Prometheus needs for itself; when
                the value is not a finite number; or when there would be more series than
                `max_series`.
        """
        # The usual case first: the series exists, and labels are strings in order.
        try:
            series = self._series.get((name, tuple(labels.items()) if labels else ()))
        except TypeError:  # A label that cannot be hashed is used as text.
            series = None
        if series is None:
            series = self.series(name, **labels)
        series.record(value)

    def series(self, name: str, /, **labels: str) -> Series:
        """The series that `record_metric` records to; call its `record` to record many values.

        Raises:
            InputError: see `record_metric`.
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
        """Statistics of all values recorded under `name`, with these labels if any are given.

        Values of objects that are no longer attached count too, as long as `max_series` leaves
        room for them. Of their labels only `call` is kept.

        Returns:
            `count`, `sum`, `mean`, `std` (of the population), `min`, `max`, `last`, `p50`, `p90`,
            `p99`, and `rate`: values per second over the last minute. Empty without values.

        Raises:
            InputError: when there is no such metric; the message lists those that exist.
        """
        wanted = {(label, str(value)) for label, value in labels.items()}
        with self._lock:
            known = [*self._retired.items(), *self._series.items()]
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

    def attach(self, source: object, name: str | None = None, *, timed: bool = True) -> str:
        """Watch a token window, a `Context`, a corpus or a memory manager.

        Its numbers are read at each `poll`, until it is detached or garbage-collected. With
        `timed`, calls of this object such as `add_tokens` or `get_context` record how long they
        take, as `processing_time`. For that the object gets a subclass of its class.

        Args:
            source: the object to watch; the monitor does not keep it alive.
            name: value of the label `source`; by default the name of its class, with a number
                when that is taken.
            timed: whether to time its calls. Without it, the object is not changed.

        Returns:
            The name, for `detach`.

        Raises:
            InputError: when the object cannot be watched, or the name is taken.
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
        """Stop watching the object attached as `name`; its values stay in the statistics.

        Raises:
            InputError: when nothing is attached under that name.
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
        """Read every attached object now, and record the numbers.

        An object that cannot be read does not stop the others. It is logged once (logger
        `transom`) and counted in `read_errors`, with its name as `source`.
        """
        with self._lock:
            self._forget_gone()
            room = self.max_series - self._taken()
            for attached in self._attached.values():
                held = len(attached)
                self._retired.add(attached.poll(held + room))
                room -= len(attached) - held
            self._retired.limit(room)

    def snapshot(self) -> list[Measured]:
        """Poll, then return every metric that has values, in order of name and labels."""
        with self._lock:
            self.poll()
            attached, recorded = list(self._attached.values()), list(self._series.items())
            found = [one for source in attached for one in source.measured()]
        found += [
            Measured(*key, "recorded", statistics)
            for key, series in recorded
            if (statistics := series.statistics())
        ]
        return sorted(found, key=lambda one: one[:3])

    def _taken(self) -> int:
        return len(self._series) + sum(len(one) for one in self._attached.values())

    def _make_room(self, count: int, what: str) -> None:
        """Make room for `count` more series, by forgetting retired ones if need be.

        Raises:
            InputError: when the series in use leave too little room.
        """
        if self._taken() + count > self.max_series:
            self._forget_gone()
        taken = self._taken()
        if taken + count > self.max_series:
            raise InputError(
                f"{what} would need series number {taken + count:,}; max_series is "
                f"{self.max_series:,}. Use labels with few different values (tenants, not "
                "requests), detach what need not be watched, or give a larger max_series."
            )
        self._retired.limit(self.max_series - taken - count)

    def _forget_gone(self) -> None:
        for name in [name for name, one in self._attached.items() if one.source() is None]:
            self._retire(self._attached.pop(name))

    def _retire(self, attached: Attached) -> None:
        """Keep the values of a source that is no longer attached, under fewer series."""
        timed = {key: self._series.pop(key) for key in attached.calls if key in self._series}
        self._retired.add({**timed, **attached.gauges})
