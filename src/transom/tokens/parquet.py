"""Reads a column of text from a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from transom.errors import InputError
from transom.tokens.decode import need_pyarrow, unreadable

__all__ = ["Column"]

ROWS = 256  # read at a time

BatchT = TypeVar("BatchT")


class Column:
    """The values of a column, in order; pages are checked if the file has checksums.

    Attributes:
        rows: how many rows the file says it has.

    Raises:
        InputError: when the file cannot be read, does not have exactly one column of that name, or
            turns out to be damaged while reading.
        MissingExtraError: when pyarrow is not installed.
    """

    def __init__(self, file: BinaryIO, path: Path, name: str) -> None:
        need_pyarrow(path)
        import pyarrow as pa
        from pyarrow import parquet

        # Arrow raises its own errors and Python's: OSError, UnicodeDecodeError, and OverflowError
        # for dates and times that Python does not have.
        self._broken = (pa.ArrowException, OSError, ValueError, OverflowError)
        self._path = path
        try:
            self._table = parquet.ParquetFile(file, page_checksum_verification=True)
            names = self._table.schema_arrow.names
            self.rows = self._table.metadata.num_rows
        except self._broken as error:
            raise unreadable(str(path), error) from error
        if names.count(name) != 1:
            raise InputError(
                f"{path} has {names.count(name) or 'no'} column{'s' * (name in names)} {name!r}; "
                f"it has {', '.join(map(repr, names)):.200}."
            )
        self._name = name

    def __iter__(self) -> Iterator[object]:
        read = 0
        batches = self._table.iter_batches(ROWS, columns=[self._name])
        while (batch := self._next(batches)) is not None:
            # By name: the path of a nested column may look the same.
            for value in batch.column(batch.schema.names.index(self._name)):
                read += 1
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{self._path}:{read} is not UTF-8 text ({error}); expected text that was "
                        "written as UTF-8, or the file is damaged."
                    ) from error
                except self._broken as error:
                    raise InputError(
                        f"{self._path}:{read} has {value.type} as {self._name!r}; expected text "
                        "there."
                    ) from error
                yield text
        if read != self.rows:
            raise InputError(
                f"{self._path} is damaged: it has {read:,} rows of {self._name!r}, and says that "
                f"there are {self.rows:,}."
            )

    def _next(self, batches: Iterator[BatchT]) -> BatchT | None:
        try:
            return next(batches, None)
        except self._broken as error:
            raise unreadable(str(self._path), error) from error
