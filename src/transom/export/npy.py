"""Tables as .npy files, one per column."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from transom.atomic_files import publish
from transom.errors import InputError
from transom.export.table import Columns, Ragged, TableWriter
from transom.forks import closed_in_forks

__all__ = ["NpyWriter"]


class NpyWriter(TableWriter):
    """Appends to arrays in files: a header of numpy has room for a larger first axis."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._columns: dict[str, tuple[BinaryIO, NDArray[np.generic]]] = {}
        self._rows = 0

    def _write(self, columns: Columns) -> None:
        for name, values in columns.items():
            if isinstance(values, Ragged):
                raise InputError(
                    f"cannot write {self.path}: rows of {name!r} have different lengths, which "
                    ".npy cannot hold; expected .parquet, .arrow or a `datasets` folder."
                )
            if name not in self._columns:
                file = closed_in_forks((self._unfinished / name).open("wb"))
                self._columns[name] = file, values[:0].copy()
                _header(file, 0, values)
            self._columns[name][0].write(np.ascontiguousarray(values).data)
            rows = len(values)
        self._rows += rows

    def _close(self) -> None:
        for file, empty in self._columns.values():
            file.seek(0)
            _header(file, self._rows, empty)
            file.close()

    def _publish(self) -> None:
        for name, target in zip(self._columns, self.files, strict=True):
            publish(self._unfinished / name, target)

    @property
    def files(self) -> list[Path]:
        others = [self.path.with_name(f"{self.path.stem}.{name}.npy") for name in self._columns]
        return [self.path, *others[1:]]


def _header(file: BinaryIO, rows: int, like: NDArray[np.generic]) -> None:
    npy.write_array_header_1_0(
        file,
        {
            "descr": npy.dtype_to_descr(like.dtype),
            "fortran_order": False,
            "shape": (rows, *like.shape[1:]),
        },
    )
