"""A monitor's metrics as lines of JSON, now or every few seconds."""

from __future__ import annotations

import json
import logging
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from transom.errors import InputError
from transom.forks import Owner
from transom.monitor.monitor import ContextWindowMonitor
from transom.validation import known_keywords

__all__ = ["JsonLines", "json_lines"]

LONGEST = 1e6  # seconds; threads cannot wait for as long as one likes

log = logging.getLogger("transom")


@known_keywords
def json_lines(monitor: ContextWindowMonitor) -> str:
    """A line per metric: `time` (ISO 8601, UTC), `name`, `labels`, `kind`, and its statistics.

    A sum beyond what a float holds is null, as JSON has no infinity.
    """
    now = datetime.now(UTC).isoformat()
    return "".join(
        json.dumps(
            {
                "time": now,
                "name": one.name,
                "labels": dict(one.labels),
                "kind": one.kind,
                **{
                    name: value if math.isfinite(value) else None
                    for name, value in one.statistics.items()
                },
            },
            allow_nan=False,
        )
        + "\n"
        for one in monitor.snapshot()
    )


@known_keywords
class JsonLines:
    """While open, appends a monitor's metrics to a file every few seconds, and once at the end.

    Args:
        monitor: whose metrics.
        path: of the file; it is made when it is not there.
        every: seconds from one time to the next.

    Raises:
        InputError: when `every` is not above 0, or the file cannot be written. What fails while
            it is open is raised when it is closed.

    Notes:
        Polls the monitor in a thread of its own, which a fork of the process does not have: only
        the process that opened it writes.
    """

    def __init__(
        self, monitor: ContextWindowMonitor, path: Path | str, every: float = 10.0
    ) -> None:
        number = isinstance(every, (int, float)) and not isinstance(every, bool)
        if not number or not 0 < every < LONGEST:
            raise InputError(
                f"JsonLines: every is {every!r}; expected seconds, more than 0 and less than "
                f"{LONGEST:,.0f}."
            )
        if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
            raise InputError(f"JsonLines: path is {path!r}; expected the path of a file.")
        self._monitor, self._path, self._every = monitor, Path(path), float(every)
        self._owner = Owner(f"the writer of {path}", InputError)
        self._stop = Event()
        self._failed: InputError | None = None
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        self._owner.check()
        if self._thread is not None:
            raise InputError(f"metrics are being written to {self._path} already.")
        try:
            self._path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise self._not_written(error) from error
        self._stop.clear()
        self._failed = None
        self._thread = Thread(target=self._run, name="transom-monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._owner.is_here:
            return
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join()
        if self._failed is None:
            self._write()
        if self._failed is not None and error is None:
            raise self._failed

    def _run(self) -> None:
        while self._failed is None and not self._stop.wait(self._every):
            self._write()

    def _write(self) -> None:
        """Append the metrics; what fails is raised on closing, in the thread that can see it."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json_lines(self._monitor))
        except OSError as error:
            self._failed = self._not_written(error)
            log.warning("%s", self._failed)

    def _not_written(self, error: OSError) -> InputError:
        failed = InputError(f"cannot write metrics to {self._path}: {error}.")
        failed.__cause__ = error
        return failed
