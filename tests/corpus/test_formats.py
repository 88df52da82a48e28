"""Corpora go through every format and come back, and other programs read what was written."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.making import VOCABULARY, content, make, sizes, texts
from transom.corpus import TokenCorpus
from transom.corpus.formats import formats, megatron, nanogpt, read_format, tables, write_format
from transom.errors import InputError

READABLE = [name for name, format_ in formats().items() if format_.readable]
TABLES = [name for name, format_ in formats().items() if not format_.readable]
SEPARATOR = 59_999


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> Any:
    """So that texts of some dozen ids are written and read in several."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (nanogpt, megatron):
            patch.setattr(module, "AT_ONCE", 16)
        patch.setattr(tables, "TOKENS_AT_ONCE", 16)
        patch.setattr(tables, "ROWS_AT_ONCE", 3)
        yield


def back(folder: Path, name: str, source: Path, **options: Any) -> TokenCorpus:
    with TokenCorpus.create(folder, vocab_size=options.pop("vocab_size", VOCABULARY)) as writer:
        read_format(writer, name, source, **options)
    return TokenCorpus.open(folder)


@pytest.mark.parametrize("name", READABLE)
@given(texts(), sizes)
@settings(deadline=None, max_examples=30)
def test_round_trips(name: str, documents: list[list[int]], sizes: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        corpus = make(Path(parent) / "books", documents, **sizes)
        separator = SEPARATOR if name == "nanogpt" else None
        moved: list[int] = []
        out = Path(parent) / "out"
        written = write_format(corpus, name, out, separator=separator, moved=moved.append)
        assert all(path.exists() for path in written)
        assert len([*Path(parent).iterdir()]) == 1 + len(written)
        assert sum(moved) == corpus.tokens
        assert content(back(Path(parent) / "back", name, out, separator=separator)) == documents


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".arrow":
        import pyarrow

        return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all().to_pylist()
    import datasets

    return datasets.load_from_disk(path).to_list()


@pytest.mark.parametrize("name", TABLES)
@given(texts(), sizes)
@settings(deadline=None, max_examples=20)
def test_tables_have_a_row_per_document(
    name: str, documents: list[list[int]], sizes: dict[str, int]
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        corpus = make(Path(parent) / "books", documents or [[1]], **sizes)
        [written] = write_format(corpus, name, Path(parent) / "out")
        expected = [{"document": n, "input_ids": d} for n, d in enumerate(documents or [[1]])]
        assert rows(written) == expected


@pytest.mark.parametrize("vocabulary", [200, 60_000, 70_000])
@pytest.mark.parametrize("name", ["megatron", "datatrove"])
def test_ids_of_any_size(tmp_path: Path, name: str, vocabulary: int) -> None:
    documents = [[0, vocabulary - 1], [1]]
    corpus = make(tmp_path / "books", documents, vocab_size=vocabulary)
    write_format(corpus, name, tmp_path / "out")
    assert content(back(tmp_path / "back", name, tmp_path / "out", vocab_size=vocabulary)) == (
        documents
    )


def test_what_nanogpt_cannot_hold_is_refused(tmp_path: Path) -> None:
    several = make(tmp_path / "several", [[1, 2], [3]])
    with pytest.raises(InputError, match="there are 2; expected a separator"):
        write_format(several, "nanogpt", tmp_path / "out")
    with pytest.raises(InputError, match="document 1 has the separator 3 in it"):
        write_format(several, "nanogpt", tmp_path / "out", separator=3)
    wide = make(tmp_path / "wide", [[1]], vocab_size=70_000)
    with pytest.raises(InputError, match="ids go up to 69,999, and the format holds 65,535"):
        write_format(wide, "nanogpt", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"several", "wide"}
    one = make(tmp_path / "one", [[1, 2]])
    one.export("nanogpt", tmp_path / "one.bin")
    assert (tmp_path / "one.bin").read_bytes() == struct.pack("<2H", 1, 2)
    again = TokenCorpus.convert(
        tmp_path / "again", "nanogpt", tmp_path / "one.bin", vocab_size=VOCABULARY
    )
    assert content(again) == [[1, 2]]


def test_nanogpt_text_after_the_last_separator_is_a_document(tmp_path: Path) -> None:
    np.array([1, 9, 9, 2], dtype="<u2").tofile(tmp_path / "train.bin")
    corpus = back(tmp_path / "books", "nanogpt", tmp_path / "train.bin", separator=9)
    assert content(corpus) == [[1], [], [2]]


def test_megatron_bytes(tmp_path: Path) -> None:
    """As Megatron-LM's `IndexedDataset` reads it."""
    corpus = make(tmp_path / "books", [[1, 2, 3], [4]])
    binary, index = write_format(corpus, "megatron", tmp_path)
    assert (binary.name, index.name) == ("books.bin", "books.idx")
    assert np.fromfile(binary, "<u2").tolist() == [1, 2, 3, 4]
    data = index.read_bytes()
    assert data[:9] == b"MMIDIDX\0\0"
    assert struct.unpack_from("<QBQQ", data, 9) == (1, 8, 2, 3)
    assert struct.unpack_from("<2i2q3q", data, 34) == (3, 1, 0, 6, 0, 1, 2)
    assert len(data) == 34 + 8 + 16 + 24


@given(texts(), st.data())
@settings(deadline=None, max_examples=40)
def test_megatron_sequences_in_any_order(documents: list[list[int]], data: Any) -> None:
    """Documents of several sequences, that lie anywhere in the file."""
    sequences: list[list[int]] = []
    firsts = [0]
    for document in documents:
        at = data.draw(st.integers(0, len(document)))
        sequences += [document[:at], document[at:]]
        firsts.append(len(sequences))
    order = data.draw(st.permutations(range(len(sequences))))
    starts, flat = {}, []
    for number in order:
        starts[number] = len(flat)
        flat += sequences[number]
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent)
        np.array(flat, dtype="<i4").tofile(path / "x.bin")
        with (path / "x.idx").open("wb") as file:
            file.write(struct.pack("<9sQBQQ", b"MMIDIDX", 1, 4, len(sequences), len(firsts)))
            np.array([len(s) for s in sequences], "<i4").tofile(file)
            np.array([4 * starts[n] for n in range(len(sequences))], "<i8").tofile(file)
            np.array(firsts, "<i8").tofile(file)
        assert content(back(path / "books", "megatron", path / "x")) == documents


@pytest.mark.parametrize("name", ["megatron", "datatrove"])
def test_files_cut_short_are_refused(tmp_path: Path, name: str) -> None:
    corpus = make(tmp_path / "books", [[1, 2, 3], [4]])
    written = write_format(corpus, name, tmp_path / "out")[:2]
    for number, path in enumerate(written):
        whole = path.read_bytes()
        for length in (0, 1, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError):
                back(tmp_path / f"{number}-{length}", name, tmp_path / "out")
        path.write_bytes(whole)
        path.unlink()
        with pytest.raises(InputError, match="cannot read"):
            back(tmp_path / f"{number}-gone", name, tmp_path / "out")
        path.write_bytes(whole)


def test_hostile_names(tmp_path: Path) -> None:
    corpus = make(tmp_path / "books", [[1]])
    with pytest.raises(InputError, match="no format 'npz'; the known ones are nanogpt, megatron"):
        write_format(corpus, "npz", tmp_path / "out")
    with pytest.raises(InputError, match="is no folder"):
        write_format(corpus, "megatron", tmp_path / "there" / "out")
    with pytest.raises(InputError, match="parquet cannot be read back"):
        back(tmp_path / "back", "parquet", tmp_path / "out")
    write_format(corpus, "datatrove", tmp_path / "out")
    with pytest.raises(InputError, match="ids range from 1 to 1; the vocabulary has 0 to 0"):
        back(tmp_path / "small", "datatrove", tmp_path / "out", vocab_size=1)
