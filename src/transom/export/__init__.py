"""Tables of numbers as files for other programs: .npy, .arrow, .parquet, a `datasets` folder."""

from transom.export.table import Ragged, TableWriter, suffixes, table_writer

__all__ = ["Ragged", "TableWriter", "suffixes", "table_writer"]
