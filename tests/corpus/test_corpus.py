"""A corpus reads back what was written, and its windows are those of a `SlidingWindow`."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from tests.helpers.corpora import VOCABULARY, content, make, same_windows, sizes, texts
from tests.helpers.forking import in_a_fork
from transom.corpus import TokenCorpus, verify
from transom.corpus.datasets import make_dataset, register_dataset
from transom.corpus.maps import MappedFile, MappedTokens
from transom.errors import CorpusError, InputError, MissingExtraError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "books"


ADDING = ("whole", "in pieces", "with the next one")
AFTER = ("nothing", "commit", "commit and open again", "lose what follows")


@given(texts(), sizes, st.data())
@settings(deadline=None)
def test_documents_read_back_as_they_were_added(
    documents: list[list[int]], sizes: dict[str, int], data: Any
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "books"
        writer = TokenCorpus.create(path, vocab_size=VOCABULARY, **sizes)
        waiting: list[int] = []
        ends: list[int] = []
        for number, document in enumerate(documents):
            how = data.draw(st.sampled_from(ADDING))
            if how == "with the next one":
                waiting += document
                ends.append(len(waiting))
                continue
            writer.add_tokens(waiting, documents=ends)
            waiting, ends = [], []
            if how == "whole":
                writer.add_document(document)
            else:
                at = data.draw(st.integers(0, len(document)))
                writer.add_tokens(document[:at])
                writer.add_tokens(np.array(document[at:], dtype=np.int64))
                writer.end_document()
            assert writer.documents == number + 1
            match data.draw(st.sampled_from(AFTER)):
                case "commit":
                    writer.commit()
                case "commit and open again":
                    writer.__exit__(None, None, None)
                    writer = TokenCorpus.append(path)
                case "lose what follows":
                    writer.commit()
                    writer.add_tokens(range(50))
                    writer.abandon()
                    assert content(TokenCorpus.open(path)) == documents[: number + 1]
                    writer = TokenCorpus.append(path)
        with writer:
            writer.add_tokens(waiting, documents=ends)
        corpus = TokenCorpus.open(path, verified=True)
        assert content(corpus) == documents
        tokens = sum(len(document) for document in documents)
        assert repr(corpus) == f"<TokenCorpus: {tokens:,} tokens in {len(documents):,} documents>"
        assert content(pickle.loads(pickle.dumps(corpus))) == documents


@given(texts(), sizes, st.data())
@settings(deadline=None)
def test_windows_are_those_of_a_sliding_window(
    documents: list[list[int]], sizes: dict[str, int], data: Any
) -> None:
    special = data.draw(st.booleans())
    size = data.draw(st.integers(3, 12))
    cut = {
        "window_size": size,
        "stride": data.draw(st.integers(1, size - 2)),
        "padding_side": data.draw(st.sampled_from(["left", "right"])),
        "drop_last": data.draw(st.booleans()),
        "packed": data.draw(st.booleans()),
        "bos_id": 50_001 if special else None,
        "eos_id": 50_002 if special else None,
    }
    with tempfile.TemporaryDirectory() as parent:
        corpus = make(Path(parent) / "books", documents, **sizes)
        same_windows(corpus, documents, **cut)


def test_reading_in_order_and_at_random_agree_over_many_shards(folder: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, VOCABULARY, n).tolist() for n in rng.integers(0, 900, 200)]
    corpus = make(folder, documents, shard_bytes=4096, block_bytes=256)
    assert len(corpus.manifest.shards) > 30
    same_windows(corpus, documents, window_size=128, stride=64)
    same_windows(corpus, documents, window_size=100, stride=7, packed=True)
    corpus.release()
    assert content(corpus) == documents


@pytest.mark.parametrize("vocabulary", [200, 50_000, 128_000])
def test_ids_take_as_few_bytes_as_they_need(folder: Path, vocabulary: int) -> None:
    corpus = make(folder, [[0, vocabulary - 1]], vocab_size=vocabulary)
    assert corpus.dtype.itemsize == {200: 1, 50_000: 2, 128_000: 4}[vocabulary]
    assert (folder / "000000.tokens").read_bytes() == corpus.document(0).tobytes()
    assert corpus.windows(2).batch([0]).ids.tolist() == [[0, vocabulary - 1]]


def test_an_empty_corpus(folder: Path) -> None:
    corpus = make(folder, [])
    assert content(corpus) == []
    assert len(corpus.windows(4)) == 0
    assert list(verify(folder)) == []
    assert corpus.read(0, 10).tolist() == []
    with pytest.raises(IndexError, match="there are 0"):
        corpus.document(0)
    with TokenCorpus.append(folder) as writer:
        writer.add_document([])
    assert content(TokenCorpus.open(folder)) == [[]]


def test_refresh_shows_appended_documents_and_older_windows_do_not_change(folder: Path) -> None:
    corpus = make(folder, [[1, 2, 3]])
    windows = corpus.windows(2, stride=2)
    assert corpus.windows(2, stride=2) is windows
    with TokenCorpus.append(folder) as writer:
        writer.add_document([4, 5])
        assert not corpus.refresh()
    assert corpus.tokens == 3
    copy = pickle.loads(pickle.dumps(corpus))
    assert corpus.refresh()
    assert not corpus.refresh()
    assert content(corpus) == [[1, 2, 3], [4, 5]]
    assert content(copy) == [[1, 2, 3]]
    assert [w.ids.tolist() for w in windows] == [[1, 2], [3, 0]]
    assert len(corpus.windows(2, stride=2)) == 3


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The starts of the stretches that are released, while few pages may stay mapped."""
    starts: list[int] = []
    release = MappedFile.release

    def noted(self: MappedFile, start: int = 0, stop: int | None = None) -> None:
        starts.append(start)
        release(self, start, stop)

    monkeypatch.setattr(MappedFile, "release", noted)
    monkeypatch.setattr("transom.corpus.maps.HELD", 1 << 16)
    monkeypatch.setattr("transom.corpus.maps.NEAR", 1 << 15)
    return starts


def test_sequential_reading_releases_pages(folder: Path, released: list[int]) -> None:
    documents = [np.arange(n, n + 5000) for n in range(0, 50_000, 500)]
    corpus = make(folder, documents, shard_bytes=1 << 18)
    windows = corpus.windows(512)
    before = [window.ids.copy() for window in windows]
    in_order = len(released)
    assert in_order >= corpus.tokens * 2 // (1 << 16) - 2
    for at in range(0, len(windows), 64):
        for row, ids in zip(
            windows.batch(slice(at, at + 64)).ids, before[at : at + 64], strict=True
        ):
            assert np.array_equal(row, ids)
    for _ in corpus.pieces(4096):
        pass
    assert len(released) > 2.5 * in_order


def test_random_reading_releases_no_pages(folder: Path, released: list[int]) -> None:
    documents = [np.arange(n, n + 5000) for n in range(0, 50_000, 500)]
    windows = make(folder, documents).windows(512)
    rng = np.random.default_rng(0)
    for _ in range(100):
        windows.batch(rng.integers(0, len(windows), 64))
    assert len(released) < 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory in /proc")
@pytest.mark.parametrize("way", ["batch", "each", "pieces"])
def test_reading_in_order_takes_little_memory(folder: Path, way: str) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 1 << 20, dtype=np.uint16)
    with TokenCorpus.create(folder, vocab_size=VOCABULARY, shard_bytes=1 << 24) as writer:
        for _ in range(48):
            writer.add_tokens(ids, documents=np.arange(1000, len(ids), 1000))
    ran = subprocess.run(
        [sys.executable, "-c", SCAN, str(folder), way], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 40 << 20  # the corpus has 96 MiB


SCAN = """
import sys
from pathlib import Path
from transom import TokenCorpus

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

corpus = TokenCorpus.open(sys.argv[1])
windows = corpus.windows(512, packed=True)
windows.batch(slice(0, 64))
start = most = resident()
if sys.argv[2] == "batch":
    reading = (windows.batch(slice(at, at + 64)).ids for at in range(0, len(windows), 64))
elif sys.argv[2] == "each":
    reading = (windows[at : at + 100] for at in range(0, len(windows), 100))
else:
    reading = (int(piece.max()) for piece in corpus.pieces())
for _ in reading:
    most = max(most, resident())
print(most - start)
"""


def test_documents_are_views_and_cannot_be_written(folder: Path) -> None:
    corpus = make(folder, [[1, 2, 3], [4]])
    assert np.shares_memory(corpus.document(0), corpus.read(0, 4))
    assert corpus.document(-1).tolist() == [4]
    for array in (corpus.document(0), corpus.edges, corpus.windows(2)[0].ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9


def test_sources_are_noted(folder: Path) -> None:
    with TokenCorpus.create(folder, vocab_size=9) as writer:
        writer.add_source({"path": "é.txt", "documents": [0, 0]})
    with TokenCorpus.append(folder) as writer:
        writer.add_source({"path": "b.txt"})
    corpus = TokenCorpus.open(folder)
    assert [source["path"] for source in corpus.sources()] == ["é.txt", "b.txt"]


def tokenizer(**vocabulary: int) -> Tokenizer:
    return Tokenizer(models.WordLevel(vocabulary, unk_token="a"))


def test_another_tokenizer_is_refused_by_name(folder: Path) -> None:
    mine, other = tokenizer(a=0, b=1, c=7), tokenizer(a=0, c=1, b=7)
    with TokenCorpus.create(folder, tokenizer=mine, name="abc") as writer:
        writer.add_document([7])  # the highest id decides, not the number of tokens
        with pytest.raises(InputError, match="vocabulary has 0 to 7"):
            writer.add_document([8])
    assert TokenCorpus.open(folder, tokenizer=mine).tokens == 1
    assert TokenCorpus.open(folder).manifest.tokenizer == "abc"
    for refused in (TokenCorpus.open, TokenCorpus.append):
        with pytest.raises(CorpusError, match=r"another tokenizer \(abc\): the vocabulary or the"):
            refused(folder, tokenizer=other)
    with TokenCorpus.append(folder, tokenizer=mine) as writer:
        writer.add_document([1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected vocab_size or a tokenizer"),
        ({"tokenizer": "a fingerprint"}, "expected vocab_size or a tokenizer"),
        ({"vocab_size": 0}, "vocab_size is 0; expected at least 1"),
        ({"vocab_size": 2**40}, "expected at most"),
        ({"vocab_size": 9, "block_bytes": 12}, "block_bytes is 12; expected a multiple of 8"),
        ({"vocab_size": 9, "shard_bytes": 0}, "shard_bytes is 0"),
        ({"tokenizer": 3}, r"Expected a tokenizers\.Tokenizer"),
    ],
)
def test_hostile_settings(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenCorpus.create(folder, **arguments)
    assert not folder.exists()


def test_hostile_folders(folder: Path, tmp_path: Path) -> None:
    for open_it in (TokenCorpus.open, TokenCorpus.append, lambda path: list(verify(path))):
        with pytest.raises(CorpusError, match="is no corpus"):
            open_it(folder)
    with pytest.raises(InputError, match="expected the name of a folder"):
        TokenCorpus.create("", vocab_size=9)
    make(folder, [[1]])
    with pytest.raises(InputError, match="is a corpus already"):
        TokenCorpus.create(folder, vocab_size=9)
    with pytest.raises(InputError, match="is not empty"):
        TokenCorpus.create(tmp_path, vocab_size=9)
    with pytest.raises(CorpusError, match="cannot make"):
        TokenCorpus.create(folder / "manifest.json", vocab_size=9)


def test_hostile_windows(folder: Path) -> None:
    corpus = make(folder, [[1, 2]])
    with pytest.raises(InputError, match="has no parameter 'padd'"):
        corpus.windows(2, padd=3)
    with pytest.raises(InputError, match="stride is 3"):
        corpus.windows(2, stride=3)


def test_datasets_without_torch_say_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make(folder, [[1, 2]])
    for name in [name for name in sys.modules if name.startswith("transom.torch_data")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'transom\[torch\]'"):
        corpus.torch_dataset(2)


def test_several_threads_may_read(folder: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, VOCABULARY, 700).tolist() for _ in range(60)]
    corpus = make(folder, documents, shard_bytes=1 << 13)
    tokens = np.concatenate(documents)

    def read(size: int) -> None:
        windows = corpus.windows(size, stride=size, packed=True, drop_last=True)
        for seed in range(30):
            numbers = np.random.default_rng(seed).integers(0, len(windows), 20)
            ids = windows.batch(numbers).ids
            wanted = tokens[: len(windows) * size].reshape(-1, size)[numbers]
            assert np.array_equal(ids, wanted)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, [64, 100, 64, 100, 33, 512] * 5))


@pytest.fixture
def changing_hands() -> Iterator[None]:
    """Let threads switch much more often than by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_each_thread_sees_one_commit_while_others_refresh(
    folder: Path, changing_hands: None
) -> None:
    corpus = make(folder, [[0] * 10])  # document n has the content of number n
    done = threading.Event()

    def read(size: int) -> int:
        seen = turns = 0
        while not done.is_set() or not turns:
            [number] = {*corpus.document(-1).tolist()}
            assert seen <= number  # a refresh never goes back to an older commit
            seen, turns = number, turns + 1
            windows = corpus.windows(size + turns % 7, overlap=0, packed=True)
            assert len(windows) == -(-int(windows._edges[-1]) // windows.cut.size)
            assert windows.batch([len(windows) - 1]).attention_mask.any()
            assert len(corpus.read(0, 10**9)) % 10 == 0
            assert sum(map(len, corpus.pieces(64))) % 10 == 0
        return turns

    def refresh() -> None:
        while not done.is_set():
            corpus.refresh()

    try:
        with ThreadPoolExecutor(5) as pool:
            readers = [pool.submit(read, size) for size in (4, 10, 12)]
            others = [pool.submit(refresh) for _ in range(2)]
            with TokenCorpus.append(folder) as writer:
                for number in range(1, 60):
                    writer.add_document([number] * 10)
                    writer.commit()
            done.set()
            assert all(reader.result() for reader in readers)
            for other in others:
                other.result()
    finally:
        done.set()
    corpus.refresh()
    assert content(corpus) == [[number] * 10 for number in range(60)]


@pytest.mark.parametrize("to", ["megatron", "parquet", "nanogpt", "datatrove"])
def test_an_export_is_of_one_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """The corpus is refreshed during the export."""
    separator = 9 if to == "nanogpt" else None
    corpus = make(folder, [[1, 2], [3, 4]], shard_bytes=8)
    before = [*corpus.export(to, tmp_path / "before", separator=separator)]
    read = MappedTokens.read

    def meanwhile(self: MappedTokens, start: int, stop: int) -> Any:
        if corpus.documents == 2:
            with TokenCorpus.append(folder) as writer:
                writer.add_document([4, 5])
            assert corpus.refresh()
        return read(self, start, stop)

    monkeypatch.setattr(MappedTokens, "read", meanwhile)
    after = corpus.export(to, tmp_path / "after", separator=separator)
    assert corpus.documents == 3
    assert [path.read_bytes() for path in before] == [path.read_bytes() for path in after]


def test_a_fork_reads_and_refreshes(folder: Path) -> None:
    corpus = make(folder, [[1, 2], [3]])
    with TokenCorpus.append(folder) as writer:
        writer.add_document([4, 5])
        with corpus._refreshing:  # as if another thread held it, which the fork does not have
            assert in_a_fork(lambda: (corpus.document(1).tolist(), corpus.refresh())) == (
                [3],
                False,
            )
    assert in_a_fork(lambda: (corpus.refresh(), content(corpus))) == (True, [[1, 2], [3], [4, 5]])
    assert content(corpus) == [[1, 2], [3]]


def test_each_kind_of_dataset_is_registered_once(folder: Path) -> None:
    corpus = make(folder, [[1, 2]])
    with pytest.raises(InputError, match="'torch_dataset' is registered already"):
        register_dataset("torch_dataset", lambda corpus, size: None)
    with pytest.raises(InputError, match=r"no dataset is called 'jax'.*torch_d"):
        make_dataset("jax", corpus, 2, {})
