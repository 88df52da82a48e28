"""The rows of an evaluation in a file, so that it can go on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from transom.errors import InputError
from transom.evaluate.rows import Row, RowKey, from_json, to_json

__all__ = ["ResultLog"]


class ResultLog:
    """A JSON-lines file: a line for the settings, then one for each row; only appended to.

    A line that was cut off when the process ended is removed when the file is opened again.
    Only one process at a time may use a file.

    Args:
        path: the file; made when the first row is added.
        settings: what decides the figures, such as model, text and seed, as JSON values.

    Raises:
        InputError: when the file has other settings, or is not a record of an evaluation.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path = path
        self.settings = dict(settings)
        self._rows: dict[RowKey, Row] = {}
        if path.exists():
            self._take_up()

    @property
    def rows(self) -> list[Row]:
        """All rows, sorted: whatever the order they were added in, it is the same."""
        return sorted(self._rows.values(), key=lambda row: tuple(map(_sortable, row.key)))

    def __contains__(self, key: RowKey) -> bool:
        return key in self._rows

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows that are not there yet, in memory and in the file.

        Raises:
            InputError: when they cannot be written; the rows of earlier calls stay.
        """
        new = [row for row in rows if row.key not in self._rows]
        lines = [to_json(row) for row in new]
        if not self.path.exists():
            lines.insert(0, {"settings": self.settings})
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}.") from error
        self._rows |= {row.key: row for row in new}

    def _take_up(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()] or [{}]
            rows = [from_json(line) for line in lines]
            settings = first.get("settings", self.settings if not whole else None)
            if settings is None:
                raise ValueError("its first line has no settings")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{self.path} is not a record of an evaluation ({error}); move it away, or choose "
                "another folder."
            ) from error
        self._check(settings)
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        if not whole:
            self.path.unlink()
        self._rows = {row.key: row for row in rows}

    def _check(self, settings: Mapping[str, object]) -> None:
        if settings == self.settings:
            return
        keys = [key for key in {**settings, **self.settings} if self._differs(settings, key)]
        there = ", ".join(f"{key} {settings.get(key)!r}" for key in keys)
        asked = ", ".join(f"{key} {self.settings.get(key)!r}" for key in keys)
        raise InputError(
            f"{self.path} is of another evaluation, with {there}; this one has {asked}. Choose "
            "another folder, or start anew with --fresh."
        )

    def _differs(self, settings: Mapping[str, object], key: str) -> bool:
        return bool(settings.get(key) != self.settings.get(key))


def _sortable(part: str | float) -> tuple[str, float]:
    return ("", part) if isinstance(part, (int, float)) else (str(part), 0)
