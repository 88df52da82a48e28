from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.forking import in_a_fork
from transom.errors import InputError, MissingExtraError
from transom.tokens import documents
from transom.tokens.decode import decoded
from transom.tokens.documents import has_rows

TEXTS = ["First.\n", "", "Zweite: Größe\r\nひとつ", "last \N{GRINNING FACE}"]
LINES = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS))


def write(path: Path, data: str | bytes) -> Path:
    data = data.encode() if isinstance(data, str) else data
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    if path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(data)
        return path
    path.write_bytes(data)
    return path


def read(path: Path, **options: Any) -> list[tuple[str, str]]:
    return [
        (name, text if isinstance(text, str) else "".join(text))
        for name, text in documents(path, **options)
    ]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_text_is_one_document(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.txt{suffix}", "\ufeffone\r\ntwo\rthree\n")
    assert read(path) == [(str(path), "one\ntwo\rthree\n")]


def test_an_empty_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "")
    assert read(path) == [(str(path), "")]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.b.jsonl{suffix}", "\n" + LINES + "  \n")
    assert read(path) == [(f"{path}:{i + 2}", text) for i, text in enumerate(TEXTS)]


def test_lines_without_a_newline_at_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES.rstrip())
    assert [text for _, text in read(path)] == TEXTS


@pytest.mark.parametrize(
    "name", ["A.JSONL", "a.ndjson", "c4.0001.json", "c4.0001.json.gz", "a.NDJSON.ZST", "a.Json.GZ"]
)
def test_lines_by_other_names(tmp_path: Path, name: str) -> None:
    data = LINES.encode()
    if name.lower().endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    if name.lower().endswith(".zst"):
        data = pa.compress(data, "zstd", asbytes=True)
    (tmp_path / name).write_bytes(data)
    assert [text for _, text in read(tmp_path / name)] == TEXTS
    assert has_rows(tmp_path / name)


def test_numbers_of_any_length_beside_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "a", "id": {"7" * 5000}, "x": [1, -2, NaN]}}\n')
    assert [text for _, text in read(path)] == ["a"]


def test_a_file_that_grows_is_known_as_it_was_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.txt", "a.jsonl.gz"):
        path = write(tmp_path / name, LINES)
        more = gzip.compress(LINES.encode()) if name.endswith(".gz") else LINES.encode()
        found = documents(path)
        with path.open("ab") as file:
            file.write(more)
        texts = [text if isinstance(text, str) else "".join(text) for _, text in found]
        assert texts in (2 * TEXTS, ["".join(2 * [LINES])])
        assert found.known == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_is_written_anew_while_it_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": TEXTS}), path)
    else:
        write(path, LINES)
    found = documents(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="was changed while it was read"):
        ["".join(text) for _, text in found]


def test_rows_of_every_kind_of_text(tmp_path: Path) -> None:
    path = tmp_path / "A.PARQUET"
    for kind in (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ):
        group = pa.array([{"text": "wrong"}] * len(TEXTS))
        column = pa.array(TEXTS, pa.string()).cast(kind)
        pq.write_table(pa.table({"meta": group, "meta.text": column}), path)
        assert [text for _, text in read(path, field="meta.text")] == TEXTS


def test_damaged_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    whole = [f"{n:04} " * 40 for n in range(2000)]
    table = pa.table({"text": whole})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    at = data.index(b"1000 1000 ")
    data[at : at + 4] = b"9999"  # still valid text, but not the same
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot read .*a\.parquet: .*CRC"):
        read(path)
    ends = pa.array([0, 2, 6], pa.int32()).buffers()[1]
    bad = pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"okcaf\xe9")])
    pq.write_table(pa.table({"text": bad}), path)
    with pytest.raises(InputError, match=r"a\.parquet:2 is not UTF-8 text"):
        read(path)
    for codec in ("snappy", "gzip", "lz4", "none"):  # zstd has no checksums of its own
        for part in ("page", "footer"):
            pq.write_table(table, path, compression=codec, use_dictionary=False)
            data = bytearray(path.read_bytes())
            footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            first = footer + 4 if part == "footer" else footer * 9 // 10
            data[first : first + 40] = b"\xff" * 40
            path.write_bytes(data)
            with pytest.raises(InputError, match=r"a\.parquet"):
                read(path)
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, path)
    with pytest.raises(InputError, match="has 2 columns 'text'"):
        read(path)


def test_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(4), "body": TEXTS}), path, row_group_size=3)
    assert read(path, field="body") == [(f"{path}:{i + 1}", text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_bytes_read_go_up_to_the_size(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["abc" * 1000] * 1000}), path, row_group_size=100)
    else:
        many = (f'{{"text": "some words {i}"}}\n' for i in range(100_000))
        write(path, "".join(many))
    found = documents(path)
    seen = [found.read]
    for _, text in found:
        for _ in [text] if isinstance(text, str) else text:
            seen.append(found.read)
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert found.read == found.size == path.stat().st_size
    assert len(set(seen)) > 2 or name.endswith(".zst")  # read in one call here


@given(st.text(), st.binary(min_size=1), st.integers(1, 7))
@settings(deadline=None)
def test_decoding_in_pieces(text: str, noise: bytes, size: int) -> None:
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    encoded = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert "".join(decoded(Slow(encoded, size), "x")) == text.replace("\r\n", "\n")
    data = encoded + noise
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + len(data) - len(error.object)
        with pytest.raises(
            InputError, match=rf"x is not UTF-8 text \(byte .* at offset {offset:,}\)"
        ):
            list(decoded(Slow(data, size), "x"))


class Slow(io.BytesIO):
    """A file that returns a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.size)


def broken() -> Iterator[tuple[str, bytes, str]]:
    yield "a.csv", b"", "expected a name that ends in .txt, .jsonl, .ndjson, .json, .parquet"
    yield "a.parquet.gz", b"", "expected a name that ends in .txt, .jsonl, .ndjson, .json, .parquet"
    yield "a", b"", "cannot tell what is in"
    yield (
        "a.jsonl",
        b'{"text": "a", "b": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        "nested too deeply",
    )
    yield "a.json", b'[\n{"text": "a"}\n]', r"a.json:1 is not JSON"
    yield "a.jsonl", b'{"text": ' + b"7" * 5000 + b"}", "a.jsonl:1 has float as 'text'"
    yield "a.jsonl", gzip.compress(b"{}", mtime=0), "with gzip: let its name end in .gz"
    yield "a.jsonl", '{"text": "a"}\n\n'.encode("utf-16"), "it is UTF-16: convert it"
    for suffix in (".gz", ".zst", ".GZ"):
        yield f"a.txt{suffix}", b"", "it has 0 bytes, and even an empty text has some"
        yield f"a.jsonl{suffix}", b"", "it has 0 bytes"
    yield "a.parquet", b"", "cannot read .*a.parquet"
    yield "a.txt", gzip.compress(b"text", mtime=0), "with gzip: let its name end in .gz, or unpack"
    yield "a.txt", b"%PDF-1.4\n\xff", "it is a PDF: take the text out of it"
    yield "a.txt", "text".encode("utf-16"), "it is UTF-16: convert it with iconv -f UTF-16"
    yield "a.txt", b"ab\xffc", r"a.txt is not UTF-8 text \(byte 0xff at offset 2\)"
    yield "a.txt", b"ab\xe6", r"byte 0xe6 at offset 2"
    yield "a.jsonl", b'{"text": "a"}\n{"text": ', r"a.jsonl:2 is not JSON \(Expecting value"
    yield "a.jsonl", b'{"text": "\xff"}', r"a.jsonl:1 is not JSON \('utf-8' codec"
    yield "a.jsonl", b'["a"]', "a.jsonl:1 is list; expected an object per line"
    yield "a.jsonl", b'{"body": "a", "id": 1}', "no field 'text'; it has 'body', 'id'"
    yield "a.jsonl", b'{"text": null}', "a.jsonl:1 has NoneType as 'text'; expected text"
    yield "a.jsonl.gz", b"\x1f\x8bnonsense", "cannot read .*a.jsonl.gz"
    yield "a.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-12], "cannot read .*a.txt.gz"
    yield "a.txt.zst", b"nonsense", "cannot read .*a.txt.zst"
    yield "a.jsonl.zst", b"nonsense", "cannot read .*a.jsonl.zst"
    yield "a.parquet", b"nonsense", "cannot read .*a.parquet"


@pytest.mark.parametrize(("name", "data", "message"), [*broken()])
def test_unusable_files_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read(path)


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.zst", LINES * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot read .*a.jsonl.zst: .*[Tt]runcated"):
        read(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*missing\.txt: No such file"):
        documents(tmp_path / "missing.txt")


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None]}), path)
    with pytest.raises(InputError, match=r"a\.parquet:2 has NoneType as 'text'"):
        read(path)
    with pytest.raises(InputError, match="no column 'body'; it has 'text'"):
        read(path, field="body")


@pytest.mark.parametrize("name", ["a.txt.zst", "a.parquet"])
def test_without_pyarrow(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / name, "text")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'transom\[export\]'"):
        read(tmp_path / name)


def test_a_fork_takes_no_lines_from_its_parent(tmp_path: Path) -> None:
    """The file is larger than a buffer; parent and fork share one position in it."""
    lines = [json.dumps({"text": f"{number} " + "x" * 2000}) for number in range(100)]
    found = documents(write(tmp_path / "lines.jsonl", "\n".join(lines)))
    assert str(next(found).text).startswith("0 ")
    with pytest.raises(InputError, match=r"the reading of .*lines\.jsonl belongs to process"):
        in_a_fork(lambda: [one.name for one in found])
    assert [str(one.text).split()[0] for one in found] == [str(n) for n in range(1, 100)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf_16_without_a_byte_order_mark_is_refused(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.txt", "Some text".encode(encoding))
    with pytest.raises(InputError, match="is not UTF-8 text: it is UTF-16 or UTF-32, without a"):
        read(path)
    for fine in ("a\0b", "\0\0\0\0\0\0\0\0", "\0a", "ab\0\0cd\0\0"):
        assert read(write(path, fine)) == [(str(path), fine)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1 << 30], pa.date32()),  # in the year 2,941,764
        pa.array([1], pa.timestamp("us", tz="Nowhere/At_All")),
        pa.array([b"a"], pa.binary()),
        pa.array([1.5]),
    ],
    ids=str,
)
def test_rows_that_are_not_text_are_refused(tmp_path: Path, column: Any) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path)
    with pytest.raises(InputError, match=r"a\.parquet:1 has .* as 'text'; expected text there"):
        read(path)


def test_zstd_with_a_large_window_is_refused(tmp_path: Path) -> None:
    # An empty frame that asks for a window of 2**28 bytes.
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(bytes.fromhex("28b52ffd 00 90 010000"))
    with pytest.raises(InputError, match="unpack it with zstd -d --long=31"):
        read(path)


@pytest.mark.parametrize("name", ["", "a\0.txt"])
def test_paths_that_cannot_name_a_file(name: str) -> None:
    with pytest.raises(InputError, match=r"a file's name is .*; expected the name of a file"):
        documents(name)
