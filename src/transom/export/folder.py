"""Tables as folders that `datasets.load_from_disk` reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import datasets
import pyarrow as pa

from transom.errors import InputError
from transom.export.arrow import record_batch
from transom.export.table import Columns, TableWriter

__all__ = ["FolderWriter"]


class FolderWriter(TableWriter):
    """Writes an Arrow stream, from which `datasets` then makes its folder."""

    replaces: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        try:
            os.path.realpath(path).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"cannot write {path}: `datasets` writes only to names that are UTF-8; expected "
                "another name, or one that ends in .parquet or .arrow."
            ) from error
        super().__init__(path)
        self._writer: pa.RecordBatchWriter | None = None
        self._rows = 0

    def _write(self, columns: Columns) -> None:
        batch = record_batch(columns)
        self._rows += len(batch)
        if self._writer is None:
            self._writer = pa.ipc.new_stream(str(self._stream), batch.schema)
        self._writer.write_batch(batch)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _publish(self) -> None:
        if not self._rows:
            raise InputError(f"cannot write {self.path}: a `datasets` folder needs a row.")
        shown = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            made = self._unfinished / "made"
            datasets.Dataset.from_file(str(self._stream)).save_to_disk(made)
        finally:
            if shown:
                datasets.enable_progress_bars()
        made.rename(self.path)

    @property
    def _stream(self) -> Path:
        return self._unfinished / "stream.arrow"

    @property
    def files(self) -> list[Path]:
        return [self.path]
