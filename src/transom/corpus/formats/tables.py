"""Tables with a row per document: Parquet, Arrow, a `datasets` folder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from transom.corpus.formats.base import Format, Moved
from transom.corpus.reader import CorpusReader
from transom.export import Ragged, table_writer

__all__ = ["Arrow", "Datasets", "Parquet"]

TOKENS_AT_ONCE = 1 << 20  # per group of rows, unless one document has more
ROWS_AT_ONCE = 1 << 16


class _Table(Format):
    """Two columns: `document`, its number, and `input_ids`, a list."""

    readable: ClassVar[bool] = False
    suffix: ClassVar[str]

    def files(self, out: Path) -> list[Path]:
        return [out if out.suffix == self.suffix else out.with_name(out.name + self.suffix)]

    def write(
        self, corpus: CorpusReader, out: Path, *, separator: int | None = None, moved: Moved
    ) -> None:
        edges = corpus.edges
        with table_writer(self.files(out)[0]) as table:
            at = 0
            while at < corpus.documents or not at:
                room = np.searchsorted(edges, int(edges[at]) + TOKENS_AT_ONCE, side="right") - 1
                stop = min(max(int(room), at + 1), at + ROWS_AT_ONCE, corpus.documents)
                here = edges[at : stop + 1]
                ids = corpus.read(int(here[0]), int(here[-1]))
                table.write(
                    {
                        "document": np.arange(at, stop),
                        "input_ids": Ragged(ids, here - here[0]),
                    }
                )
                moved(len(ids))
                if stop == at:
                    break
                at = stop


class Parquet(_Table):
    """A Parquet file."""

    name: ClassVar[str] = "parquet"
    summary: ClassVar[str] = "a Parquet file with a row per document"
    suffix: ClassVar[str] = ".parquet"


class Arrow(_Table):
    """A file in Arrow's random-access format, which can be memory-mapped."""

    name: ClassVar[str] = "arrow"
    summary: ClassVar[str] = "an Arrow file with a row per document"
    suffix: ClassVar[str] = ".arrow"


class Datasets(_Table):
    """A folder for `datasets.load_from_disk`."""

    name: ClassVar[str] = "datasets"
    summary: ClassVar[str] = "a folder for datasets.load_from_disk with a row per document"
    suffix: ClassVar[str] = ""
