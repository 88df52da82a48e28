"""A source that a monitor reads: the numbers read off it, and how often that failed."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection
from typing import Any

from transom.errors import InputError
from transom.monitor.names import Key, key_of, named
from transom.monitor.readings import Reading, readings
from transom.monitor.series import Series, finite

__all__ = ["Attached"]

log = logging.getLogger("transom")


class Attached:
    """Something attached to a monitor under a name; it is not kept alive.

    Its length is how many series it takes, and at least the `aside` that were set aside for it.

    Attributes:
        name: value of the label `source` of all its numbers.
        source: a weak reference to what is read.
        calls: the monitor's keys of the seconds that its calls take.
        watch: what its calls record to, by their names; empty when they are not timed.
        gauges: of each number that rises and falls, the values at each poll.
        totals: of each number that only grows, the value at the last poll. One that fell all the
            same, as tokens seen do when a context goes back, stays and grows from there.
        readable: whether the last poll could read it.
        errors: how many readings failed so far; a source that cannot be read at all is one.
    """

    def __init__(self, name: str, source: Any, calls: Collection[Key], aside: int) -> None:
        self.name = name
        self.source = weakref.ref(source)
        self.calls = calls
        self.watch: dict[str, Series] = {}
        self.gauges: dict[Key, Series] = {}
        self.totals: dict[Key, float] = {}
        self._fallen: dict[Key, float] = {}  # by how much totals are above what is read
        self.readable = True
        self.errors = 0
        self._aside = aside
        self._warned = False

    def __len__(self) -> int:
        return max(self._aside, len(self.gauges) + len(self.totals))

    def key(self, reading: Reading) -> Key:
        """Under which a reading is kept."""
        return key_of(reading.name, (("source", self.name), *reading.labels))

    def poll(self, most: int) -> dict[Key, Series]:
        """Read the source now, into `most` series at most; gives gauges that are gone from it.

        What fails is counted and told to the log once, and takes nothing else away.
        """
        source = self.source()
        if source is None:
            return {}
        failed = self.errors
        self.readable = False
        try:
            found = readings(source)
        except Exception as error:  # of any kind: others are still to be read
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
