"""Tables as Arrow and Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transom.atomic_files import publish
from transom.errors import InputError
from transom.export.table import Columns, Ragged, TableWriter
from transom.forks import closed_in_forks

__all__ = ["ArrowWriter", "record_batch"]


class ArrowWriter(TableWriter):
    """One file; each batch of rows becomes a record batch, or a row group of Parquet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._writer: pq.ParquetWriter | pa.RecordBatchWriter | None = None
        self._open: BinaryIO | None = None

    def _write(self, columns: Columns) -> None:
        batch = record_batch(columns)
        if self._writer is None:
            make = pq.ParquetWriter if self.path.suffix.lower() == ".parquet" else pa.ipc.new_file
            # A file opened by Python: Arrow itself opens only names that are UTF-8.
            self._open = closed_in_forks(self._file.open("wb"))
            self._writer = make(self._open, batch.schema)
        self._writer.write_batch(batch)

    def _close(self) -> None:
        if self._open is not None:
            with self._open:
                if self._writer is not None:
                    self._writer.close()

    def _publish(self) -> None:
        publish(self._file, self.path)

    @property
    def _file(self) -> Path:
        return self._unfinished / self.path.name

    @property
    def files(self) -> list[Path]:
        return [self.path]


def record_batch(columns: Columns) -> pa.RecordBatch:
    """A record batch of pyarrow; `(rows, width)` arrays become lists of a fixed size."""
    return pa.record_batch({name: _column(values) for name, values in columns.items()})


def _column(values: NDArray[np.generic] | Ragged) -> pa.Array:
    if isinstance(values, Ragged):
        if len(values.values) > np.iinfo(np.int32).max:
            raise InputError(
                f"a column of {len(values.values):,} numbers is too long for lists of Arrow; write "
                f"at most {np.iinfo(np.int32).max:,} at a time."
            )
        return pa.ListArray.from_arrays(
            pa.array(np.asarray(values.edges, dtype=np.int32)), pa.array(values.values)
        )
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
