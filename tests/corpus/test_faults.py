"""Processes that are killed, disks that are full, readers beside a writer: the last commit stands.

Documents follow from their numbers, so that any corpus can be checked against what it should hold:
`TRANSOM_KILLS=1000` kills more often than the 50 times of a run with the slow tests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.corpus_appender import VOCABULARY, numbered
from transom.corpus import TokenCorpus, verify
from transom.errors import CorpusError

SHARDS = {"block_bytes": 4096, "shard_bytes": 64 * 1024}

APPEND = """
import sys
from tests.helpers.corpus_appender import append_for_ever
append_for_ever(sys.argv[1])
"""


def check(corpus: TokenCorpus, first: int = 0) -> None:
    """Check that every document from `first` on has the content of its number."""
    for number in range(first, corpus.documents):
        assert np.array_equal(corpus.document(number), numbered(number)), number
    noted = [source["documents"] for source in corpus.sources()]
    assert (noted or [0])[-1] == corpus.documents


def start(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", APPEND, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill_again_and_again(folder: Path, times: int) -> None:
    TokenCorpus.create(folder, vocab_size=VOCABULARY, **SHARDS).abandon()
    checked = 0
    rng = random.Random(0)
    for _ in range(times):
        process = start(folder)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        corpus = TokenCorpus.open(folder)
        check(corpus, first=max(0, checked - 3))
        assert list(verify(folder)) == []
        assert corpus.documents >= checked
        checked = corpus.documents
    assert checked > times
    check(TokenCorpus.open(folder, verified=True))


def test_killed_writers(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path / "books", 8)


@pytest.mark.slow
def test_writers_killed_more_often(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path / "books", int(os.environ.get("TRANSOM_KILLS", "50")))


def test_a_reader_beside_a_writer_sees_only_commits(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    TokenCorpus.create(folder, vocab_size=VOCABULARY, **SHARDS).abandon()
    process = start(folder)
    try:
        corpus = TokenCorpus.open(folder)
        seen = refreshed = 0
        windows = corpus.windows(64, stride=64)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            count = len(windows)
            check(corpus, first=seen)
            seen = corpus.documents
            refreshed += corpus.refresh()
            assert len(windows) == count  # windows stay at the commit they were made from
            windows = corpus.windows(64, stride=64)
            if len(windows):
                last = windows[-1]
                document = numbered(last.document)
                ids = last.ids[last.attention_mask == 1]
                assert np.array_equal(ids, document[len(document) - len(ids) :])
    finally:
        process.kill()
        process.wait()
    assert refreshed > 3
    assert seen > 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("a small disk takes `mount`, which is not installed")
    if mounted.returncode != 0:
        pytest.skip(f"a small disk takes the right to mount one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("every", [1, 7, 1000])
def test_a_full_disk(small_disk: Path, every: int) -> None:
    folder = small_disk / "books"
    TokenCorpus.create(folder, vocab_size=VOCABULARY, **SHARDS).abandon()

    def fill() -> None:
        with TokenCorpus.append(folder) as writer:
            while True:
                writer.add_document(numbered(writer.documents))
                if writer.documents % every == 0:
                    writer.add_source({"documents": writer.documents})
                    writer.commit()

    for _ in range(3):
        with pytest.raises(CorpusError, match=r"No space left on device\. It is as it was last"):
            fill()
        corpus = TokenCorpus.open(folder, verified=True)
        check(corpus)
    assert (corpus.documents > 100) == (every < 1000)
    ballast = small_disk / "ballast"
    try:
        ballast.write_bytes(bytes(1 << 20))
    except OSError as full:
        assert "No space" in str(full)  # noqa: PT017
    with pytest.raises(CorpusError, match="No space left"):
        fill()
    check(TokenCorpus.open(folder, verified=True))
    ballast.unlink()
    check(TokenCorpus.open(folder, verified=True))


def test_a_disk_too_full_to_begin(small_disk: Path) -> None:
    try:
        (small_disk / "ballast").write_bytes(bytes(1 << 20))
    except OSError as full:
        assert "No space" in str(full)  # noqa: PT017
    folder = small_disk / "books"
    with pytest.raises(CorpusError, match="No space left"):
        TokenCorpus.create(folder, vocab_size=VOCABULARY)
    (small_disk / "ballast").unlink()
    with TokenCorpus.create(folder, vocab_size=VOCABULARY) as writer:
        writer.add_document([1])
    assert TokenCorpus.open(folder, verified=True).tokens == 1
