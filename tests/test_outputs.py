"""Output files are written completely, to where a path leads, and nothing else is changed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from transom.atomic_files import atomic_write, publish
from transom.attention.patterns import causal
from transom.errors import InputError
from transom.export import TableWriter, table_writer
from transom.outputs import check_picture, check_target, write_text


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    there, nowhere = tmp_path / "there.json", tmp_path / "folder" / "nowhere.json"
    there.write_text("old")
    nowhere.parent.mkdir()
    for name, target in (("one", there), ("two", nowhere), ("chain", Path("one"))):
        link = tmp_path / name
        link.symlink_to(target)
        check_target(link)
        write_text(link, name)
        assert link.is_symlink()
        assert link.read_text() == name
    assert there.read_text() == "chain"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("there.json", "folder", "one", "two", "chain")
    }


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o600)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_target(pipe)
    read: list[str] = []
    reader = Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "text\n")
    reader.join(10)
    assert read == ["text\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [*tmp_path.iterdir()] == [pipe]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device_is_named_and_not_replaced(tmp_path: Path) -> None:
    for path in (Path("/dev/full"), tmp_path / "link"):
        if path.parent == tmp_path:
            path.symlink_to("/dev/full")
        with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
            write_text(path, "text")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    write_text("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


SAY = """
import sys
from transom.outputs import write_text
print("before")
write_text(sys.argv[1], "text\\n")
print("after")
"""


@pytest.mark.parametrize("to", ["file", "pipe"])
def test_standard_output_is_not_cut_off(tmp_path: Path, to: str) -> None:
    command = [sys.executable, "-c", SAY, "/dev/stdout"]
    path = tmp_path / "out.txt"
    if to == "file":
        with path.open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
        got = path.read_text()
    else:
        got = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert got == "before\ntext\nafter\n"


@pytest.mark.parametrize("check", [check_target, lambda path: write_text(path, "text")])
def test_an_output_that_cannot_be_written_is_refused(
    tmp_path: Path, check: Callable[[Path], None]
) -> None:
    (tmp_path / "file").write_text("old")
    for path in (
        tmp_path,
        tmp_path / "none" / "a.json",
        tmp_path / "file" / "a.json",
        tmp_path / ("x" * 300),
        Path("/proc/a.json"),
    ):
        with pytest.raises(InputError, match=r"cannot write|is a folder"):
            check(path)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]
    assert (tmp_path / "file").read_text() == "old"


def test_an_error_while_writing_keeps_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def cut_short() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_that_must_not_be_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = tmp_path / "made", tmp_path / "protected"
    made.write_text("new")
    path.write_text("old")
    monkeypatch.setattr(
        os, "access", lambda *_: False
    )  # root may write everything, other users may not
    with pytest.raises(PermissionError):
        publish(made, path)
    with pytest.raises(InputError, match="not open to writing"):
        check_target(path)
    assert path.read_text() == "old"


def test_pictures_are_called_png(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"p\.jpg ends in '\.jpg', and pictures are written as PNG"
    ):
        causal().draw(tmp_path / "p.jpg", 8)
    for name in ("p.svg", "p.v2", "p.PDF"):
        with pytest.raises(InputError, match="ends in"):
            check_picture(tmp_path / name)
    for name in ("p.png", "P.PNG", "picture"):
        causal().draw(tmp_path / name, 8)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["rows.npy", "rows.parquet", "rows.arrow", "ROWS.PARQUET"])
def test_tables_follow_links(tmp_path: Path, name: str) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / name
    link.symlink_to(tmp_path / "far" / name)
    with table_writer(link) as table:
        table.write({"ids": np.zeros(3, np.int32)})
    assert link.is_symlink()
    assert (tmp_path / "far" / name).stat().st_size > 0
    assert [*(tmp_path / "far").iterdir()] == [tmp_path / "far" / name]
    os.mkfifo(tmp_path / f"pipe{link.suffix}")
    with pytest.raises(InputError, match="is there already"):
        table_writer(tmp_path / f"pipe{link.suffix}")
    with pytest.raises(InputError, match="cannot write"):
        table_writer(f"/proc/{name}")


@pytest.mark.parametrize("name", ["rows.npy", "rows.parquet", "rows.arrow", "rows"])
def test_a_table_whose_disk_fills_up_leaves_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def write(table: TableWriter) -> None:
        with table:
            table.write({"ids": np.zeros(3, np.int32)})

    for at in ("_write", "_close", "_publish"):
        table = table_writer(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(type(table), at, full)
            with pytest.raises(InputError, match="No space left"):
                write(table)
        assert [*tmp_path.iterdir()] == []
