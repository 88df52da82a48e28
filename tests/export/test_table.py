from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.forking import in_a_fork
from transom.errors import InputError
from transom.export import table_writer

NAMES = ["rows.npy", "rows.parquet", "rows.arrow", "rows"]


def columns(rows: int, first: int = 0) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + rows)
    return {
        "ids": (numbers[:, None] + np.arange(3)).astype(np.int32),
        "mask": np.ones((rows, 3), np.uint8)[:, ::-1],
        "start": numbers.astype(np.int64),
    }


def read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npy":
        return {
            "ids": np.load(path, mmap_mode="r"),
            "mask": np.load(path.with_name("rows.mask.npy")),
            "start": np.load(path.with_name("rows.start.npy")),
        }
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
    elif path.suffix == ".arrow":
        import pyarrow

        table = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
    else:
        import datasets

        table = datasets.load_from_disk(path).with_format("arrow")[:]
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@pytest.mark.parametrize("name", NAMES)
def test_a_written_table_reads_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with table_writer(path) as table:
        for first in range(0, 300, 100):
            table.write(columns(100, first))
        table.write(columns(7, 300))
        assert not path.exists()
    got, wanted = read(path), columns(307)
    assert list(got) == list(wanted)
    for column, values in wanted.items():
        assert np.array_equal(got[column], values)
    assert sorted(tmp_path.iterdir()) == sorted(table.files)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [0, 5])
def test_an_error_leaves_nothing(tmp_path: Path, name: str, rows: int) -> None:
    def interrupted() -> None:
        with table_writer(tmp_path / name) as table:
            if rows:
                table.write(columns(rows))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [*tmp_path.iterdir()] == []


def test_a_folder_needs_a_row(tmp_path: Path) -> None:
    table = table_writer(tmp_path / "rows")
    table.write(columns(0))
    with pytest.raises(InputError, match="needs a row"):
        table.__exit__(None, None, None)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", NAMES[:3])
def test_no_rows(tmp_path: Path, name: str) -> None:
    with table_writer(tmp_path / name) as table:
        table.write(columns(0))
    assert {name: len(values) for name, values in read(tmp_path / name).items()} == {
        "ids": 0,
        "mask": 0,
        "start": 0,
    }


def test_files_are_replaced_and_folders_are_not(tmp_path: Path) -> None:
    for rows in (5, 2):
        with table_writer(tmp_path / "rows.npy") as table:
            table.write(columns(rows))
    assert len(np.load(tmp_path / "rows.npy")) == 2
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="is there already"):
        table_writer(tmp_path / "data")


def test_a_table_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'.csv' is none of .arrow, .npy, .parquet"):
        table_writer(tmp_path / "rows.csv")
    with pytest.raises(InputError, match="not a folder open to writing"):
        table_writer(tmp_path / "no" / "rows.npy")


def test_a_large_array_grows_in_its_file(tmp_path: Path) -> None:
    """The header is rewritten at the end, and must not be longer than it was at the start."""
    with table_writer(tmp_path / "rows.npy") as table:
        for _ in range(20):
            table.write({"ids": np.zeros((60_000, 1), np.uint8)})
    assert np.load(tmp_path / "rows.npy").shape == (1_200_000, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_fork_writes_nothing(tmp_path: Path, name: str) -> None:
    with table_writer(tmp_path / name) as table:
        table.write(columns(5))
        for refused in (
            lambda: table.write(columns(5, 5)),
            lambda: table.__exit__(None, None, None),
        ):
            with pytest.raises(InputError, match=f"writer of .*{name} belongs to process"):
                in_a_fork(refused)
        in_a_fork(lambda: table.__exit__(KeyError, KeyError(), None))
        table.write(columns(5, 5))
    got = read(tmp_path / name)
    for column, values in columns(10).items():
        assert np.array_equal(got[column], values)


@pytest.mark.parametrize("name", ["rows.npy", "rows.parquet", "rows.arrow"])
def test_names_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"\udcff{name}"
    with table_writer(path) as table:
        table.write(columns(5))
    if name == "rows.npy":
        assert np.array_equal(np.load(path), columns(5)["ids"])
    else:
        path.rename(tmp_path / name)  # Arrow cannot read such names either
        assert np.array_equal(read(tmp_path / name)["start"], columns(5)["start"])
    with pytest.raises(InputError, match="writes only to names that are UTF-8"):
        table_writer(tmp_path / "\udcff")


@pytest.mark.parametrize("name", NAMES)
def test_leftovers_of_a_killed_process_block_nobody(tmp_path: Path, name: str) -> None:
    """In a container, the next process may have the same process id."""
    left = in_a_fork(lambda: (table_writer(tmp_path / name), os.getpid())[1])
    [folder] = tmp_path.iterdir()
    folder.rename(tmp_path / folder.name.replace(str(left), str(os.getpid())))
    with table_writer(tmp_path / name) as table:
        table.write(columns(3))
    assert len(read(tmp_path / name)["ids"]) == 3


def test_two_writers_of_one_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with table_writer(path) as one, table_writer(path) as other:
        for table, rows in ((one, 3), (other, 5)):
            table.write(columns(rows))
    assert len(read(path)["ids"]) == 3  # the writer that finished last wins
    assert [*tmp_path.iterdir()] == [path]
