"""Tables written a batch at a time; nothing is at the path before all of it is."""

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
from typing import Any, ClassVar, NamedTuple, Self

from numpy.typing import NDArray

from transom.errors import InputError, MissingExtraError
from transom.forks import Owner
from transom.outputs import check_target
from transom.validation import known_keywords

__all__ = ["Ragged", "TableWriter", "suffixes", "table_writer"]

# Module and class by suffix: a module is imported when it is needed, as it needs a package.
WRITERS = {
    ".arrow": ("arrow", "ArrowWriter"),
    ".npy": ("npy", "NpyWriter"),
    ".parquet": ("arrow", "ArrowWriter"),
    "": ("folder", "FolderWriter"),
}


class Ragged(NamedTuple):
    """A column whose rows are of different lengths.

    Attributes:
        values: of all rows, one after the other.
        edges: `(rows + 1,)`, where among these the rows start, and where the last one stops.
    """

    values: NDArray[Any]
    edges: NDArray[Any]


class TableWriter(ABC):
    """Writes batches of rows while open as a context manager.

    What is written goes to a temporary name beside `path` and is moved there at the end; when an
    exception ends it, nothing is left behind. A file that is there already is replaced, also
    where `path` is a link to it. In a fork of the process, writing and completing are refused and
    giving up changes nothing.

    Raises:
        InputError: when it cannot be written, or something else is there.
    """

    replaces: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = Owner(f"the writer of {path}", InputError)
        with self._io():
            if path.exists() and not (path.is_file() and self.replaces):
                raise InputError(f"{path} is there already; choose another name.")
            check_target(path)
            target = Path(os.path.realpath(path))  # on whose disk all is written
            # Of a name that no process uses again: what a killed one leaves is in nobody's way.
            self._unfinished = Path(tempfile.mkdtemp(prefix=".transom-", dir=target.parent))

    def write(self, columns: Mapping[str, NDArray[Any] | Ragged]) -> None:
        """Append rows: arrays by name of column, `(rows,)` or `(rows, width)`, always alike.

        Or `Ragged` ones, which .npy cannot hold.

        At least once, if only with no rows: that is how the columns are known.

        Raises:
            InputError: when they cannot be written, as on a full disk.
        """
        self._owner.check()
        with self._io():
            self._write(columns)

    @abstractmethod
    def _write(self, columns: Mapping[str, NDArray[Any] | Ragged]) -> None:
        """Append rows to what is open in the temporary folder."""

    @abstractmethod
    def _close(self) -> None:
        """Complete and close what is open in the temporary folder."""

    @abstractmethod
    def _publish(self) -> None:
        """Move what is in the temporary folder to where it belongs."""

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """What is there once all is written."""

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
                with suppress(OSError):  # The disk may be full, and what is there is not wanted.
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
    """The suffixes that say what is written; without one, it is a folder for `datasets`."""
    return tuple(suffix for suffix in WRITERS if suffix)


@known_keywords
def table_writer(path: str | os.PathLike[str]) -> TableWriter:
    """The writer for a path, chosen by its suffix.

    `.npy` files hold one array each: the first column goes to the path itself, the others to
    `NAME.COLUMN.npy` beside it. `.arrow` is Arrow's random-access format, which can be memory
    mapped. A path without a suffix becomes a folder for `datasets.load_from_disk`.

    Raises:
        InputError: on a suffix that means nothing here, or a path that cannot be written.
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
