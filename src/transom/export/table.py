"""Tables written a batch at a time; the file appears at its path only when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError, MissingExtraError
from transom.forks import Owner
from transom.outputs import check_target
from transom.validation import known_keywords

__all__ = ["Columns", "Ragged", "TableWriter", "suffixes", "table_writer"]

# Module and class by suffix: a module is imported when it is needed, as it needs a package.
WRITERS = {
    ".arrow": ("arrow", "ArrowWriter"),
    ".npy": ("npy", "NpyWriter"),
    ".parquet": ("arrow", "ArrowWriter"),
    "": ("folder", "FolderWriter"),
}


class Ragged(NamedTuple):
    """A column whose rows have different lengths.

    Attributes:
        values: the values of all rows, one after the other.
        edges: `(rows + 1,)`, where the rows start among the values, then where the last one stops.
    """

    values: NDArray[np.generic]
    edges: NDArray[np.integer]


Columns = Mapping[str, NDArray[np.generic] | Ragged]  # arrays by name of column


class TableWriter(ABC):
    """A context manager that writes batches of rows.

    It writes to a temporary name beside `path` and moves the file there at the end. After an
    exception, nothing is left behind. A file at `path` is replaced, also when `path` is a link to
    it. In a fork of the process, writing and completing are refused, and leaving the context by an
    exception changes nothing.

    Raises:
        InputError: when it cannot be written, or there is something at `path` that is not a file.
    """

    replaces: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = Owner(f"the writer of {path}", InputError)
        with self._io():
            if path.exists() and not (path.is_file() and self.replaces):
                raise InputError(f"{path} is there already; choose another name.")
            check_target(path)
            target = Path(os.path.realpath(path))  # everything is written on its disk
            # With a unique name, so that what a killed process leaves is in the way of no other.
            self._unfinished = Path(tempfile.mkdtemp(prefix=".transom-", dir=target.parent))

    def write(self, columns: Columns) -> None:
        """Append rows. Call it at least once, if only with no rows, to name the columns.

        Args:
            columns: arrays by name of column, `(rows,)` or `(rows, width)`, or `Ragged` columns,
                which .npy cannot hold. Names, dtypes and widths are the same in each call.

        Raises:
            InputError: when they cannot be written, as on a full disk.
        """
        self._owner.check()
        with self._io():
            self._write(columns)

    @abstractmethod
    def _write(self, columns: Columns) -> None:
        """Append rows to the files in the temporary folder."""

    @abstractmethod
    def _close(self) -> None:
        """Complete and close the files in the temporary folder."""

    @abstractmethod
    def _publish(self) -> None:
        """Move the files from the temporary folder to their paths."""

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """The files that exist once all is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._owner.check()
        if not self._owner.is_here:
            return
        try:
            if error is None:
                with self._io():
                    self._close()
                    self._publish()
            else:
                with suppress(OSError):  # The disk may be full, and the file is not wanted.
                    self._close()
        finally:
            shutil.rmtree(self._unfinished, ignore_errors=True)

    @contextmanager
    def _io(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror or error}. What was there before is "
                "unchanged."
            ) from error


def suffixes() -> tuple[str, ...]:
    """The suffixes of file formats; a path without suffix becomes a folder for `datasets`."""
    return tuple(suffix for suffix in WRITERS if suffix)


@known_keywords
def table_writer(path: str | os.PathLike[str]) -> TableWriter:
    """The writer for a path, chosen by its suffix.

    A `.npy` file holds one array: the first column goes to the path itself, the others to
    `NAME.COLUMN.npy` beside it. `.arrow` is Arrow's random-access format, which can be
    memory-mapped. A path without a suffix becomes a folder for `datasets.load_from_disk`.

    Raises:
        InputError: when the suffix is unknown, or the path cannot be written.
        MissingExtraError: when the format needs a package that is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(
            f"cannot tell what to write to {path}: {path.suffix!r} is none of "
            f"{', '.join(suffixes())}; a name without a suffix makes a `datasets` folder."
        )
    module, name = WRITERS[suffix]
    try:
        kind: type[TableWriter] = getattr(import_module(f"transom.export.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("pyarrow", "datasets"):
            raise
        raise MissingExtraError(
            f"writing {path} needs {error.name}, which is not installed: "
            "pip install 'transom[export]'."
        ) from error
    return kind(path)
