"""What a writer refuses, and what is left when it fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.corpora import content, make
from tests.helpers.forking import in_a_fork
from transom.corpus import TokenCorpus, manifest, verify
from transom.errors import CorpusBusyError, CorpusDamageError, CorpusError, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "books"


@pytest.mark.parametrize(
    ("ids", "documents", "message"),
    [
        ([60_000], None, "ids range from 60000"),
        ([-1], None, "ids range from -1"),
        (["a"], None, "cannot use list"),
        ([[1]], None, "shape"),
        ([1, 2], [3], "documents must end at 0 to 2"),
        ([1, 2], [2, 1], "expected ascending"),
        ([1, 2], ["x"], "documents must end"),
    ],
)
def test_hostile_ids_change_nothing(folder: Path, ids: Any, documents: Any, message: str) -> None:
    with TokenCorpus.create(folder, vocab_size=60_000) as writer:
        writer.add_document([1])
        with pytest.raises(InputError, match=message):
            writer.add_tokens(ids, documents=documents)
        writer.add_document([2])
    assert content(TokenCorpus.open(folder)) == [[1], [2]]


def test_an_open_document_is_not_committed(folder: Path) -> None:
    with TokenCorpus.create(folder, vocab_size=9) as writer:
        writer.add_tokens([1])
        with pytest.raises(InputError, match="a document is open"):
            writer.commit()
        with pytest.raises(InputError, match="a document is open"):
            writer.add_document([2])
        writer.add_tokens([2])
    assert content(TokenCorpus.open(folder)) == [[1, 2]]  # leaving the context ends the document


def test_an_exception_discards_what_was_not_committed(folder: Path) -> None:
    make(folder, [[1]], shard_bytes=8)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with suppress(ZeroDivisionError), TokenCorpus.append(folder) as writer:
        writer.add_source({"path": "a"})
        writer.add_document(range(50))
        writer._write()
        assert len([*folder.iterdir()]) > len(before)
        raise ZeroDivisionError
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    del before["writer.lock"], after["writer.lock"]
    assert after == before
    with pytest.raises(CorpusError, match="it is closed"):
        writer.add_document([1])


def test_a_commit_of_nothing_writes_nothing(folder: Path) -> None:
    corpus = make(folder, [[1]])
    with TokenCorpus.append(folder):
        pass
    assert not corpus.refresh()


def test_the_callers_array_may_change_afterwards(folder: Path) -> None:
    ids = np.array([1, 2], dtype=np.uint16)
    with TokenCorpus.create(folder, vocab_size=60_000) as writer:
        writer.add_tokens(ids)
        ids[:] = 9
    assert content(TokenCorpus.open(folder)) == [[1, 2]]


def test_a_second_writer_is_refused_by_name(folder: Path) -> None:
    make(folder, [[1]])
    with TokenCorpus.append(folder) as writer:
        writer.add_document([2])
        with pytest.raises(CorpusBusyError, match=f"by process {os.getpid()} on .*, since 2"):
            TokenCorpus.append(folder)
        code = f"from transom import TokenCorpus; TokenCorpus.append({str(folder)!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"CorpusBusyError: {folder} is being written to by process {os.getpid()}" in (
            other.stderr
        )
    with TokenCorpus.append(folder) as writer:
        writer.add_document([3])
    assert content(TokenCorpus.open(folder)) == [[1], [2], [3]]


def test_two_processes_that_create_the_same_corpus(folder: Path) -> None:
    with TokenCorpus.create(folder, vocab_size=9):
        for make_it in (TokenCorpus.create, TokenCorpus.append):
            with pytest.raises((CorpusBusyError, InputError)):
                make_it(folder, **({"vocab_size": 9} if make_it is TokenCorpus.create else {}))


def test_a_creation_cut_short_can_be_repeated(folder: Path) -> None:
    folder.mkdir()
    for name in ("writer.lock", "manifest.json.new"):
        (folder / name).write_text("half")
    assert content(make(folder, [[1]])) == [[1]]


@pytest.mark.parametrize("name", ["000000.tokens", "documents.ends", "sources.jsonl"])
def test_nothing_is_appended_to_a_damaged_block(folder: Path, name: str) -> None:
    with TokenCorpus.create(folder, vocab_size=60_000) as writer:
        writer.add_document([1, 2, 3])
        writer.add_source({"path": "a"})
    path = folder / name
    data = bytearray(path.read_bytes())
    data[1] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorpusDamageError, match=f"{name} is damaged: block 0, bytes 0 to"):
        TokenCorpus.append(folder)
    path.write_bytes(data[:1])
    with pytest.raises(CorpusDamageError, match="it has 1 bytes, and"):
        TokenCorpus.append(folder)
    with pytest.raises(CorpusError, match="is damaged"):
        TokenCorpus.open(folder, verified=True)


class FullDisk:
    """A file that can grow by a given number of bytes only."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: Any) -> int:
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 5, 17, 100])
def test_a_full_disk_leaves_the_last_commit(folder: Path, room: int) -> None:
    make(folder, [[1, 2]])

    def append() -> None:
        with TokenCorpus.append(folder) as writer:
            file: Any = FullDisk(writer._files._shard._file, room)
            writer._files._shard._file = file
            for document in ([3], [4, 5, 6, 7], range(100)):
                writer.add_document(document)
                writer.commit()

    with pytest.raises(CorpusError, match=r"No space left on device\. It is as it was last"):
        append()
    assert list(verify(folder)) == []
    documents = content(TokenCorpus.open(folder))
    assert documents == [[1, 2], [3], [4, 5, 6, 7]][: len(documents)]
    with TokenCorpus.append(folder) as writer:
        writer.add_document([8])
    assert content(TokenCorpus.open(folder)) == [*documents, [8]]


def test_adopted_shards(folder: Path, tmp_path: Path) -> None:
    parts = [make(tmp_path / str(n), [[n, n], [], [n] * 9], shard_bytes=16) for n in (1, 2)]
    parts.append(make(tmp_path / "3", []))
    with TokenCorpus.create(folder, vocab_size=60_000, shard_bytes=16) as writer:
        writer.add_document([7])
        for part in parts:
            shards = [part.path / shard.name for shard in part.manifest.shards]
            writer.adopt(shards, part.manifest, part.edges)
        writer.add_document([8] * 20)
    expected = [[7], [1, 1], [], [1] * 9, [2, 2], [], [2] * 9, [8] * 20]
    assert content(TokenCorpus.open(folder, verified=True)) == expected


@pytest.mark.parametrize("way", ["document", "tokens", "source", "commit", "adopt"])
def test_a_fork_writes_nothing(folder: Path, way: str) -> None:
    """The parent goes on as if there were no fork, and writes what was buffered at the time."""
    writer = TokenCorpus.create(folder, vocab_size=60_000)
    writer.add_document([1, 2])
    writer.commit()
    writer.add_tokens(range(3, 300))
    writer.add_source({"name": "one"})

    def write() -> None:
        if way == "document":
            writer.add_document([7])
        elif way == "tokens":
            writer.add_tokens([7], documents=[1])
        elif way == "source":
            writer.add_source({"name": "of the fork"})
        elif way == "adopt":
            writer.adopt([], writer.committed, np.zeros(1, dtype=np.int64))
        else:
            writer.commit()

    with pytest.raises(CorpusError, match=r"writer of .*books belongs to process .* is a fork"):
        in_a_fork(write)
    in_a_fork(writer.abandon)
    with writer:
        writer.add_source({"name": "two"})
    corpus = TokenCorpus.open(folder, verified=True)
    assert content(corpus) == [[1, 2], [*range(3, 300)]]
    assert [source["name"] for source in corpus.sources()] == ["one", "two"]


def test_leaving_the_writer_in_a_fork_says_what_is_not_committed(folder: Path) -> None:
    writer = TokenCorpus.create(folder, vocab_size=60_000)
    in_a_fork(lambda: writer.__exit__(None, None, None))  # nothing was added
    writer.add_document([1])
    with pytest.raises(CorpusError, match="is a fork"):
        in_a_fork(lambda: writer.__exit__(None, None, None))
    in_a_fork(lambda: writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None))
    writer.__exit__(None, None, None)
    assert content(TokenCorpus.open(folder, verified=True)) == [[1]]


def test_a_fork_does_not_keep_the_lock_of_its_parent(folder: Path) -> None:
    writer = TokenCorpus.create(folder, vocab_size=60_000)

    def others() -> None:
        with pytest.raises(CorpusBusyError, match="is being written to by process"):
            TokenCorpus.append(folder)

    in_a_fork(others)
    ended, end = os.pipe()
    child = os.fork()
    if not child:
        os.read(ended, 1)
        os._exit(0)
    with writer:
        writer.add_document([1])
    with TokenCorpus.append(folder) as writer:
        writer.add_document([2])
    os.write(end, b"x")
    os.waitpid(child, 0)
    assert content(TokenCorpus.open(folder)) == [[1], [2]]


def test_threads_add_whole_documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transom.corpus.writer.TOKENS_AT_ONCE", 64)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with TokenCorpus.create(folder, vocab_size=60_000, shard_bytes=4096) as writer:

            def add(number: int) -> None:
                for length in range(300):
                    writer.add_document([number] * (length % 50))

            with ThreadPoolExecutor(4) as threads:
                list(threads.map(add, range(4)))
    finally:
        sys.setswitchinterval(before)
    wanted = sorted([number] * (length % 50) for number in range(4) for length in range(300))
    assert sorted(content(TokenCorpus.open(folder, verified=True))) == wanted


@pytest.mark.parametrize("where", range(5))
def test_an_interrupt_during_a_commit(
    folder: Path, where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards the corpus has either the old or the new commit, and writing goes on from it."""
    make(folder, [[1, 2]])
    replace, steps = manifest._replace, iter(range(5))

    def interrupted(*args: Any, **settings: Any) -> None:
        if next(steps) == where:
            raise KeyboardInterrupt
        replace(*args, **settings)
        if next(steps) == where:
            raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "_replace", interrupted)
    with suppress(KeyboardInterrupt), TokenCorpus.append(folder) as writer:
        writer.add_document(range(100))
    monkeypatch.undo()
    documents = [[1, 2]] if where == 0 else [[1, 2], [*range(100)]]
    assert content(TokenCorpus.open(folder, verified=True)) == documents
    with TokenCorpus.append(folder) as writer:
        writer.add_document([8])
    assert content(TokenCorpus.open(folder, verified=True)) == [*documents, [8]]


def test_a_commit_without_a_second_copy_of_its_manifest(folder: Path) -> None:
    make(folder, [[1, 2]])
    (folder / "manifest.copy.json.new").mkdir()  # as on a full disk
    with TokenCorpus.append(folder) as writer:
        writer.add_document(range(100))
        writer.commit()
        writer.add_document([3])
    documents = [[1, 2], [*range(100)], [3]]
    assert content(TokenCorpus.open(folder, verified=True)) == documents


def test_a_first_commit_that_is_interrupted_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TokenCorpus.create(folder, vocab_size=9)

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "sync_folder", interrupted)
    with suppress(KeyboardInterrupt), writer:
        writer.add_document([1])
    assert content(TokenCorpus.open(folder, verified=True)) == [[1]]


def test_a_document_that_an_interrupt_cut_in_two_is_not_committed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if the caller catches the interrupt and tries to commit what came before."""
    make(folder, [[1, 2]])

    def interrupted(data: Any) -> None:
        write(data)
        raise KeyboardInterrupt

    writer = TokenCorpus.append(folder)
    writer.add_document([3])
    write = writer._files._shard.write
    monkeypatch.setattr(writer._files._shard, "write", interrupted)
    with suppress(KeyboardInterrupt):
        writer.add_document(np.zeros(1 << 17, dtype=np.uint16))
    with pytest.raises(CorpusError, match=r"nothing more can .*: adding to it was interrupted"):
        writer.__exit__(None, None, None)
    assert content(TokenCorpus.open(folder, verified=True)) == [[1, 2]]

    def ids() -> Any:
        yield 5
        raise KeyboardInterrupt

    with TokenCorpus.append(folder) as writer:
        writer.add_document([3])
        with suppress(KeyboardInterrupt):
            writer.add_document(ids())  # fails before any id of it was taken
    assert content(TokenCorpus.open(folder, verified=True)) == [[1, 2], [3]]


@pytest.mark.parametrize("source", [{"path": Path("a")}, {"of": b"a"}, {(1, 2): 3}])
def test_a_source_that_is_not_json_changes_nothing(folder: Path, source: Any) -> None:
    with TokenCorpus.create(folder, vocab_size=9) as writer:
        writer.add_source({"path": "a"})
        with pytest.raises(InputError, match=r"cannot note the source .* as JSON"):
            writer.add_source(source)
        writer.add_document([1])
    assert [*TokenCorpus.open(folder, verified=True).sources()] == [{"path": "a"}]


def test_a_file_system_without_locks_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder, [[1]])

    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(CorpusError, match=r"its lock cannot be taken \(No locks") as caught:
        TokenCorpus.append(folder)
    assert not isinstance(caught.value, CorpusBusyError)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_paths_that_cannot_name_a_corpus(name: str) -> None:
    for use in (TokenCorpus.open, TokenCorpus.append, lambda path: TokenCorpus.create(path)):
        with pytest.raises(InputError, match=r"path is .*; expected the name of a folder"):
            use(name)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot make .*: File name too long"):
        TokenCorpus.create(tmp_path / ("x" * 300), vocab_size=9)
