"""A flipped bit anywhere is found and named, and never silently changes a token."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.corpora import content, make
from transom.corpus import TokenCorpus, verify
from transom.errors import CorpusDamageError, CorpusError

DOCUMENTS = [list(range(n, 2 * n)) for n in (3, 50, 1, 120, 7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "books"
    with TokenCorpus.create(path, vocab_size=60_000, block_bytes=64, shard_bytes=160) as writer:
        for number, document in enumerate(DOCUMENTS):
            writer.add_document(document)
            writer.add_source({"path": f"{number}.txt"})
            writer.commit()
    return path


def flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


NAMES = [
    *(f"{number:06d}.tokens" for number in range(3)),
    "documents.ends",
    "sources.jsonl",
    "manifest.json",
    "manifest.copy.json",
]


def test_the_corpus_has_no_other_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*NAMES, "writer.lock"}


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_is_covered(folder: Path, name: str) -> None:
    """Flip one bit in each byte of each file."""
    rng = random.Random(name)
    path = folder / name
    whole = path.read_bytes()
    for byte in range(len(whole)):
        flip(path, byte, rng.randrange(8))
        [damage, *others] = verify(folder)
        assert (damage.file, others) == (name, [])
        assert damage.start <= byte < damage.stop
        if not name.startswith("manifest"):
            assert damage.block == byte // 64
            assert str(damage).startswith(f"{name}: block {byte // 64}, bytes {damage.start} to")
        path.write_bytes(whole)
    assert list(verify(folder)) == []


def test_a_damaged_manifest_is_replaced_by_its_copy(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for byte in range(0, len(whole), 7):
        flip(path, byte, byte % 8)
        with pytest.warns(UserWarning, match=r"manifest.json is damaged: .* Its copy is used"):
            corpus = TokenCorpus.open(folder)
        assert content(corpus) == DOCUMENTS
        path.write_bytes(whole)
    flip(path, 100, 1)
    with pytest.warns(UserWarning, match="Its copy is used"):
        writer = TokenCorpus.append(folder)
    with writer:
        writer.add_document([5])
    assert list(verify(folder)) == []
    flip(path, 100, 1)
    flip(folder / "manifest.copy.json", 100, 1)
    for read in (TokenCorpus.open, lambda folder: list(verify(folder))):
        with pytest.raises(CorpusDamageError, match="damaged"):
            read(folder)


def test_a_missing_copy_is_named_but_not_needed(folder: Path) -> None:
    (folder / "manifest.copy.json").unlink()
    [damage] = verify(folder)
    assert str(damage).startswith("manifest.copy.json: ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content(TokenCorpus.open(folder)) == DOCUMENTS


@pytest.mark.parametrize("name", NAMES[:4])
def test_files_that_are_gone_or_too_short(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    [damage] = verify(folder)
    assert damage.file == name
    assert damage.stop == len(whole)
    with pytest.raises(CorpusDamageError, match=f"it has {len(whole) - 3} bytes"):
        TokenCorpus.open(folder)
    path.unlink()
    assert [damage.file for damage in verify(folder)] == [name]
    with pytest.raises(CorpusDamageError, match="cannot be read: No such file"):
        TokenCorpus.open(folder)


def test_bytes_past_the_committed_ones_are_ignored(folder: Path) -> None:
    for name in NAMES[:5]:
        with (folder / name).open("ab") as file:
            file.write(b"half a write")
    (folder / "000009.tokens").write_bytes(b"abc")
    assert list(verify(folder)) == []
    assert content(TokenCorpus.open(folder, verified=True)) == DOCUMENTS
    with TokenCorpus.append(folder) as writer:
        writer.add_document([5])
    assert content(TokenCorpus.open(folder, verified=True)) == [*DOCUMENTS, [5]]


def test_opening_verified_raises(folder: Path) -> None:
    flip(folder / "000001.tokens", 70, 0)
    with pytest.raises(CorpusDamageError, match=r"000001.tokens: block 1, bytes 64 to 128: the"):
        TokenCorpus.open(folder, verified=True)
    assert TokenCorpus.open(folder).tokens == sum(map(len, DOCUMENTS))


def test_progress_adds_up(folder: Path) -> None:
    seen: dict[str, int] = {}
    list(verify(folder, lambda name, size: seen.update({name: seen.get(name, 0) + size})))
    assert seen == {file.name: file.bytes for file in make_list(folder)}


def make_list(folder: Path) -> list:
    return [file for file in TokenCorpus.open(folder).manifest.files if file.bytes]


def test_a_later_format_is_not_taken_for_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transom.corpus.manifest.FORMAT", 2)
    make(folder.parent / "later", [[1]])
    monkeypatch.undo()
    with pytest.raises(CorpusError, match="is of format 2, and this version of transom reads 1"):
        TokenCorpus.open(folder.parent / "later")


def test_wrong_document_edges_with_a_right_checksum_are_found(folder: Path) -> None:
    with TokenCorpus.append(folder) as writer:
        writer._edges.append(np.array([3]))  # transom itself never writes this
        writer.add_document([4])
    [damage, *_] = verify(folder)
    assert (damage.file, damage.reason) == ("documents.ends", "edges do not ascend")
