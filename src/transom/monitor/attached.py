"""An object that a monitor reads: its numbers, and how often reading them failed."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterator

from transom.errors import InputError
from transom.monitor.measured import Measured
from transom.monitor.names import Key, key_of, named
from transom.monitor.readings import Reading, readings
from transom.monitor.series import Series, finite

__all__ = ["Attached"]

log = logging.getLogger("transom")


class Attached:
    """An object attached to a monitor under a name; it is not kept alive.

    Its length is the number of series it takes, and at least the `aside` reserved for it.

    Attributes:
        name: value of the label `source` of all its numbers.
        source: a weak reference to the object.
        calls: the monitor's keys of the times that its calls take.
        watch: the series that its calls record to, by name of the call; empty when not timed.
        gauges: for each number that rises and falls, its values at each poll.
        totals: for each number that only grows, its value at the last poll. When such a number
            falls all the same, as tokens seen do after `trim_to`, the total stays and grows on.
        readable: whether the last poll could read the object.
        errors: how many readings failed so far; an object that cannot be read at all counts once.
    """

    def __init__(self, name: str, source: object, calls: Collection[Key], aside: int) -> None:
        self.name = name
        self.source = weakref.ref(source)
        self.calls = calls
        self.watch: dict[str, Series] = {}
        self.gauges: dict[Key, Series] = {}
        self.totals: dict[Key, float] = {}
        self._fallen: dict[Key, float] = {}  # how far totals are above the numbers read
        self.readable = True
        self.errors = 0
        self._aside = aside
        self._warned = False

    def __len__(self) -> int:
        return max(self._aside, len(self.gauges) + len(self.totals))

    def key(self, reading: Reading) -> Key:
        """The key of a reading."""
        return key_of(reading.name, (("source", self.name), *reading.labels))

    def poll(self, most: int) -> dict[Key, Series]:
        """Read the object now, into at most `most` series.

        A reading that fails is counted and logged once, and does not stop the others.

        Returns:
            The gauges that the object no longer has.
        """
        source = self.source()
        if source is None:
            return {}
        failed = self.errors
        self.readable = False
        try:
            found = readings(source)
        except Exception as error:  # Of any kind: other objects are still to be read.
            self._fail(f"{type(error).__name__}: {error}")
            return {}
        self.readable = True
        before, self.gauges = self.gauges, {}
        totals, self.totals = self.totals, {}
        for reading in found:
            try:
                self._take(reading, before, totals, most)
            except InputError as error:
                self._fail(str(error))
        self._warned = self.errors > failed
        self._fallen = {key: by for key, by in self._fallen.items() if key in self.totals}
        return {key: series for key, series in before.items() if key not in self.gauges}

    def measured(self) -> Iterator[Measured]:
        """What the last poll read."""
        if self.readable:
            for key, series in self.gauges.items():
                yield Measured(*key, "read", series.statistics())
            for key, value in self.totals.items():
                yield Measured(*key, "total", {"last": value})
        if self.errors:
            labels = (("source", self.name),)
            yield Measured("read_errors", labels, "total", {"last": self.errors})

    def _take(
        self, reading: Reading, before: dict[Key, Series], totals: dict[Key, float], most: int
    ) -> None:
        key = self.key(reading)
        named(key)
        if key in self.gauges or key in self.totals:
            raise InputError(f"{reading.name!r} with labels {dict(key[1])!r} was read twice.")
        if len(self.gauges) + len(self.totals) >= most:
            raise InputError(f"{reading.name!r} would be one series more than max_series allows.")
        value = finite(reading.value)
        if reading.counted:
            if value < 0:
                raise InputError(f"{reading.name!r} only grows, and {value!r} was read.")
            former = totals.get(key, 0.0)
            total = value + self._fallen.get(key, 0.0)
            if total < former:
                self._fallen[key] = former - value
            self.totals[key] = max(total, former)
        else:
            series = before.get(key) or Series()
            series.record(value)
            self.gauges[key] = series

    def _fail(self, what: str) -> None:
        self.errors += 1
        if not self._warned:
            self._warned = True
            log.warning("%s cannot be read: %s", self.name, what)
