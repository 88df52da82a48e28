"""Corpora come back unchanged from every format, and other programs can read the files."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.corpora import VOCABULARY, content, make, sizes, texts
from transom.corpus import TokenCorpus
from transom.corpus.formats import formats, megatron, nanogpt, read_format, tables, write_format
from transom.errors import InputError

READABLE = [name for name, format_ in formats().items() if format_.readable]
TABLES = [name for name, format_ in formats().items() if not format_.readable]
SEPARATOR = 59_999


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> Any:
    """Make pieces so small that a few dozen ids are written and read in several pieces."""
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
    """Read the files as Megatron-LM's `IndexedDataset` does."""
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
    """Documents have several sequences, which may be anywhere in the file."""
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


def nanogpt_file(path: Path, ids: list[int]) -> Path:
    np.array(ids, dtype="<u2").tofile(path)
    return path


@pytest.mark.parametrize("size", [3, 100])
def test_nanogpt_separators_before_documents(tmp_path: Path, size: int) -> None:
    documents = [[1] * size, [2, 3], [4]]
    ids = [id_ for document in documents for id_ in (9, *document)]
    source = nanogpt_file(tmp_path / "before.bin", ids)
    assert content(back(tmp_path / "a", "nanogpt", source, separator=9)) == documents
    # Separators at both ends are read as ends of documents, so the first document is empty.
    source = nanogpt_file(tmp_path / "both.bin", [9, 1, 9])
    assert content(back(tmp_path / "b", "nanogpt", source, separator=9)) == [[], [1]]
    source = nanogpt_file(tmp_path / "only.bin", [9])
    assert content(back(tmp_path / "c", "nanogpt", source, separator=9)) == [[]]


@pytest.mark.parametrize(
    ("separator", "message"),
    [
        (VOCABULARY, "the vocabulary has 0 to 59999"),
        (99_999_999, "the vocabulary has 0 to 59999"),
        (-1, "expected at least 0"),
        (True, r"is True \(bool\)"),
        ("5", r"is '5' \(str\)"),
        (5.0, r"is 5.0 \(float\)"),
    ],
)
def test_invalid_separators_are_refused(tmp_path: Path, separator: Any, message: str) -> None:
    corpus = make(tmp_path / "books", [[1], [2]])
    with pytest.raises(InputError, match=message):
        corpus.export("nanogpt", tmp_path / "out", separator=separator)
    source = nanogpt_file(tmp_path / "in.bin", [1, 5, 2])
    with pytest.raises(InputError, match=message):
        back(tmp_path / "back", "nanogpt", source, separator=separator)
    assert {path.name for path in tmp_path.iterdir()} == {"books", "in.bin"}


def test_a_useless_separator_is_refused(tmp_path: Path) -> None:
    corpus = make(tmp_path / "books", [[1], [2]])
    for name, format_ in formats().items():
        if not format_.separated:
            with pytest.raises(InputError, match=f"{name}: separator is 5, and the format keeps"):
                corpus.export(name, tmp_path / "out", separator=5)
            with pytest.raises(InputError, match="separator is 5, and the format"):
                back(tmp_path / "back", name, tmp_path / "out", separator=5)
    source = nanogpt_file(tmp_path / "in.bin", [1, 2, 3])
    with pytest.raises(InputError, match="has no id 5 in it"):
        back(tmp_path / "back", "nanogpt", source, separator=5)


@pytest.mark.parametrize(("magic", "dtype"), [(20240520, "<u2"), (20240801, "<u4")])
def test_nanogpt_files_of_llmc_are_refused(tmp_path: Path, magic: int, dtype: str) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, 4
    data = header.tobytes() + np.arange(4, dtype=dtype).tobytes()
    (tmp_path / "train.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"a file of llm\.c, which has a header of 1,024 bytes"):
        back(tmp_path / "books", "nanogpt", tmp_path / "train", vocab_size=1 << 16)
    ids = header.view("<u2").tolist()
    ids[-1] = 1  # a text whose ids happen to look like that header
    source = nanogpt_file(tmp_path / "other.bin", ids)
    assert content(back(tmp_path / "other", "nanogpt", source, vocab_size=1 << 16)) == [ids]


def test_nanogpt_files_of_numpy_and_torch_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "shard.npy", np.arange(9, dtype=np.uint16))
    np.savez(tmp_path / "shard.npz", np.arange(9, dtype=np.uint16))
    os.rename(tmp_path / "shard.npz", tmp_path / "shard.bin")
    torch.save(torch.arange(9), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name, message in (
        ("shard.npy", "an array of numpy"),
        ("shard.bin", "a zip archive"),
        ("old.bin", r"a file of torch\.save"),
    ):
        with pytest.raises(InputError, match=message):
            back(tmp_path / "books", "nanogpt", tmp_path / name, vocab_size=1 << 16)


@pytest.mark.parametrize("dtype", ["<u4", "<i4", "<i8"])
def test_nanogpt_files_of_wider_ids_are_refused(tmp_path: Path, dtype: str) -> None:
    np.arange(1, 41, dtype=dtype).tofile(tmp_path / "train.bin")
    with pytest.raises(InputError, match="a file of ids of 4 or 8 bytes; write them as uint16"):
        back(tmp_path / "books", "nanogpt", tmp_path / "train.bin")
    np.random.default_rng(0).integers(0, 152_000, 400).astype(dtype).tofile(tmp_path / "large.bin")
    with pytest.raises(InputError, match="a file of ids of 4 or 8 bytes; write them as uint16"):
        back(tmp_path / "books", "nanogpt", tmp_path / "large.bin", vocab_size=1 << 16)
    for number, ids in enumerate(([0] * 80, [7, 0] * 8, [7, 0] * 20 + [7, 1])):
        source = nanogpt_file(tmp_path / "other.bin", ids)
        assert content(back(tmp_path / f"{number}", "nanogpt", source)) == [ids]


def test_nanogpt_files_take_no_larger_vocabulary(tmp_path: Path) -> None:
    source = nanogpt_file(tmp_path / "in.bin", [5, 60_000])
    with pytest.raises(InputError, match="ids go up to 65,536, and the format holds 65,535"):
        back(tmp_path / "books", "nanogpt", source, vocab_size=65_537)


def megatron_files(path: Path, pointers: list[int], ids: int, more: bytes = b"") -> Path:
    """Sequences of two 2-byte ids each, with pointers to the given bytes."""
    np.arange(1, ids + 1, dtype="<u2").tofile(path / "x.bin")
    count = len(pointers)
    lengths, firsts = np.full(count, 2, "<i4"), np.arange(count + 1, dtype="<i8")
    header = struct.pack("<9sQBQQ", b"MMIDIDX", 1, 8, count, count + 1)
    starts = np.array(pointers, "<i8")
    (path / "x.idx").write_bytes(
        header + lengths.tobytes() + starts.tobytes() + firsts.tobytes() + more
    )
    return path / "x"


def test_megatron_indexes_that_do_not_fit(tmp_path: Path) -> None:
    source = megatron_files(tmp_path, [0, 4], 4)
    assert content(back(tmp_path / "books", "megatron", source)) == [[1, 2], [3, 4]]
    for pointers, ids, more, message in (
        ([0, 3], 4, b"", "start inside an id"),
        ([0, 6], 4, b"", "that are not in"),
        ([0, 2**63 - 2], 4, b"", "that are not in"),
        ([0, 4], 9, b"", "has 9 ids, and the sequences in .* have 4"),
        ([0, 4], 3, b"", "that are not in"),
        ([0, 0], 4, b"", "share ids of .* and leave others out"),
        ([2, 0], 4, b"", "share ids of .* and leave others out"),
        ([0, 4, 4], 4, b"", "has 4 ids, and the sequences in .* have 6"),
        ([0, 4], 4, b"\0\0", "has 2 bytes more than its sequences take"),
    ):
        source = megatron_files(tmp_path, pointers, ids, more)
        with pytest.raises(InputError, match=message):
            back(tmp_path / "other", "megatron", source)


def test_the_metadata_of_datatrove(tmp_path: Path) -> None:
    documents = [[1, 2], [], [3]]
    corpus = make(tmp_path / "books", documents)
    tokens, _, about = write_format(corpus, "datatrove", tmp_path / "x")
    for number, told in enumerate(
        (b"gpt2", b"gpt2\n3\n3 T", b"caf\xe9|2\r\n3\r\n3 T", b"Unknown Tokenizer|2|2\n3", b"")
    ):
        about.write_bytes(told)
        assert content(back(tmp_path / f"{number}", "datatrove", tokens)) == documents
    for told, message in (
        (b"x|8\n3", "ids have '8' bytes; expected 2 or 4"),
        (b"x|2\n999", "there are 999 tokens, and .* has 3"),
        (b"x|2\nmany", "says 'many' in its second line"),
        (b"x|2\n" + b"9" * 5000, "says '9999.* in its second line"),
    ):
        about.write_bytes(told)
        with pytest.raises(InputError, match=message):
            back(tmp_path / "other", "datatrove", tokens)
    about.unlink()
    Path(f"{tokens}.loss").write_bytes(b"\1\0\1")
    with pytest.raises(InputError, match="which tokens count for the loss"):
        back(tmp_path / "other", "datatrove", tokens)


def test_a_conversion_that_failed_can_be_repeated(tmp_path: Path) -> None:
    source = nanogpt_file(tmp_path / "in.bin", [5, 60_000])
    folder = tmp_path / "books"
    for of, vocabulary in (("nanogpt", 50_304), ("nanogtp", 65_536), ("parquet", 65_536)):
        with pytest.raises(InputError):
            TokenCorpus.convert(folder, of, source, vocab_size=vocabulary)
        assert not folder.exists()
    corpus = TokenCorpus.convert(folder, "nanogpt", source, vocab_size=65_536)
    assert content(corpus) == [[5, 60_000]]


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 300])
def test_paths_that_cannot_name_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    corpus = make(tmp_path / "books", [[1]])
    monkeypatch.chdir(tmp_path)
    for known, format_ in formats().items():
        with pytest.raises(InputError, match="out is '"):
            corpus.export(known, name)
        if format_.readable:
            with pytest.raises(InputError, match="source is '"):
                back(tmp_path / "back", known, name)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["books"]


def test_a_path_that_ends_in_a_slash_is_a_folder(tmp_path: Path) -> None:
    corpus = make(tmp_path / "books", [[1]])
    for name in formats():
        written = corpus.export(name, f"{tmp_path}/{name}/deep/")
        assert {path.parent for path in written} == {tmp_path / name / "deep"}
        assert {path.name.partition(".")[0] for path in written} == {"books"}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no regular file"):
        corpus.export("nanogpt", tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make"):
        corpus.export("megatron", f"{tmp_path}/file/")


@pytest.mark.parametrize(("name", "beside"), [("megatron", ".idx"), ("datatrove", ".ds.index")])
def test_a_disk_that_is_full_for_one_file_leaves_the_others(
    tmp_path: Path, name: str, beside: str
) -> None:
    corpus = make(tmp_path / "books", [[1], [2, 3]])
    there = corpus.export(name, tmp_path / "out")[0]
    there.write_bytes(b"of another corpus")
    (tmp_path / f"out{beside}").unlink()
    (tmp_path / f"out{beside}").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        corpus.export(name, tmp_path / "out")
    assert there.read_bytes() == b"of another corpus"


def test_datatrove_names_of_tokenizers_take_one_line(tmp_path: Path) -> None:
    writer = TokenCorpus.create(tmp_path / "books", vocab_size=70_000, name="a\nb|\x85c\u2028d")
    with writer:
        writer.add_document([69_999, 1])
    _, _, metadata = TokenCorpus.open(tmp_path / "books").export("datatrove", tmp_path / "out")
    assert metadata.read_text().splitlines()[0] == "a b| c d|4"
    corpus = back(tmp_path / "back", "datatrove", tmp_path / "out", vocab_size=70_000)
    assert content(corpus) == [[69_999, 1]]
