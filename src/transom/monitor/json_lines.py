"""A monitor's metrics as lines of JSON, now or every few seconds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from transom.errors import InputError
from transom.monitor.monitor import ContextWindowMonitor

__all__ = ["JsonLines", "json_lines"]


def json_lines(monitor: ContextWindowMonitor) -> str:
    """A line per metric: `time` (ISO 8601, UTC), `name`, `labels`, `kind`, and its statistics."""
    now = datetime.now(UTC).isoformat()
    return "".join(
        json.dumps(
            {
                "time": now,
                "name": one.name,
                "labels": dict(one.labels),
                "kind": one.kind,
                **one.statistics,
            }
        )
        + "\n"
        for one in monitor.snapshot()
    )


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
        Polls the monitor in a thread of its own.
    """

    def __init__(
        self, monitor: ContextWindowMonitor, path: Path | str, every: float = 10.0
    ) -> None:
        if not 0 < every < float("inf"):
            raise InputError(f"JsonLines: every is {every!r}; expected seconds, more than 0.")
        self._monitor, self._path, self._every = monitor, Path(path), every
        self._stop = Event()
        self._failed: Exception | None = None
        self._thread = Thread(target=self._run, name="transom-monitor", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise InputError(f"cannot write metrics to {self._path}: {error}.") from error
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed is None:
            self._write()
        elif error is None:
            raise self._failed

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every):
                self._write()
        except Exception as error:  # raised on closing, in the thread that can see it
            self._failed = error

    def _write(self) -> None:
        text = json_lines(self._monitor)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InputError(f"cannot write metrics to {self._path}: {error}.") from error
