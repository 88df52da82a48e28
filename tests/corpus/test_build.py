"""A build or append that is stopped anywhere ends like one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.corpora import content
from tests.helpers.corpus_builds import Killed, kill_after, stop_after, tokenizer, write
from transom.corpus import Done, TokenCorpus, Watch, append_files, build, verify
from transom.errors import CorpusBusyError, CorpusError, InputError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write(tmp_path / "texts")


@pytest.fixture
def whole(tmp_path: Path, files: list[Path]) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """The documents of a build that runs to its end."""
    build(tmp_path / "whole", files, tokenizer())
    corpus = TokenCorpus.open(tmp_path / "whole")
    return content(corpus), list(corpus.sources())


def test_what_is_built(
    tmp_path: Path, files: list[Path], whole: tuple[list[list[int]], list[dict[str, Any]]]
) -> None:
    documents, sources = whole
    assert documents[0] == [1, 2, 3]
    assert documents[1] == []
    assert len(documents) == 12
    assert [Path(source["path"]) for source in sources] == files
    assert [source["documents"] for source in sources] == [
        [0, 1],
        [1, 10],
        [10, 10],
        [10, 11],
        [11, 12],
    ]
    assert sum(source["tokens"] for source in sources) == sum(map(len, documents))
    corpus = TokenCorpus.open(tmp_path / "whole", tokenizer=tokenizer())
    assert corpus.manifest.job is None


@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_and_killed_runs_go_on(
    tmp_path: Path,
    files: list[Path],
    whole: tuple[list[list[int]], list[dict[str, Any]]],
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transom.corpus.reading.COMMIT_SECONDS", -1)  # commit after every document
    folder = tmp_path / "books"
    runs = 0
    done = None
    while done is None or not done.complete:
        runs += 1
        watch = stop_after(1) if runs % 2 else kill_after(3)
        with suppress(Killed):
            done = build(folder, files, tokenizer(), workers=workers, watch=watch)
        corpus = TokenCorpus.open(folder, verified=True)
        assert content(corpus) == whole[0][: corpus.documents]
        assert runs < 100
    assert runs > 3
    assert content(TokenCorpus.open(folder)) == whole[0]
    assert list(TokenCorpus.open(folder).sources()) == whole[1]
    assert done.resumed + done.documents == len(whole[0])
    again = build(folder, files, tokenizer())
    assert (again.complete, again.documents) == (True, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=6), st.booleans())
@settings(deadline=None, max_examples=25)
def test_a_build_survives_any_interruptions(
    tmp_path_factory: pytest.TempPathFactory,
    interruptions: list[tuple[bool, int]],
    eager: bool,
) -> None:
    tmp_path = tmp_path_factory.mktemp("texts")
    files = write(tmp_path / "texts")
    folder = tmp_path / "books"
    build(tmp_path / "whole", files, tokenizer())
    build(folder, files[:1], tokenizer())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transom.corpus.reading.COMMIT_SECONDS", -1 if eager else 1000)
        for killed, after in interruptions:
            watch = kill_after(after) if killed else stop_after(after)
            try:
                if append_files(folder, files[1:], tokenizer(), watch=watch).complete:
                    break
            except Killed:
                pass
        else:
            assert append_files(folder, files[1:], tokenizer()).complete
    corpus, whole = TokenCorpus.open(folder), TokenCorpus.open(tmp_path / "whole")
    assert content(corpus) == content(whole)
    assert list(corpus.sources()) == list(whole.sources())
    assert list(verify(folder)) == []


def test_an_unfinished_job_is_completed_first(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "books"
    build(folder, files[:2], tokenizer(), watch=stop_after(1))
    with pytest.raises(CorpusError, match=r"unfinished build of .*a\.txt and 1 more, and what was"):
        append_files(folder, files[3:], tokenizer())
    with pytest.raises(CorpusError, match="unfinished build"):
        build(folder, files, tokenizer(), field="body")
    files[0].write_text(files[0].read_text() + " w1")
    with pytest.raises(CorpusError, match="unchanged, to complete it"):
        build(folder, files[:2], tokenizer())
    assert TokenCorpus.open(folder).documents == 1
    append_files(folder, files[4:], tokenizer(), forget=True)
    assert content(TokenCorpus.open(folder)) == [[1, 2, 3], [4]]


def test_a_bad_file_can_be_put_right_or_left_out(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes no difference what was committed before the bad file."""
    good = [files[0], files[1], files[3]]
    build(tmp_path / "whole", good, tokenizer())
    whole = content(TokenCorpus.open(tmp_path / "whole"))
    bad = tmp_path / "bad.txt"
    for eager in (-1, 1000):
        monkeypatch.setattr("transom.corpus.reading.COMMIT_SECONDS", eager)
        for command, later in product(("build", "append"), (True, False)):
            folder = tmp_path / f"{command}{eager}{later}"
            if command == "append":
                build(folder, [files[4]], tokenizer())
            before = TokenCorpus.open(folder).documents if command == "append" else 0
            run = append_files if command == "append" else build
            bad.write_bytes(b"w1 caf\xe9")
            given_files = [*good[:2], bad, good[2]] if later else [bad, *good]
            with pytest.raises(InputError, match=r"bad\.txt is not UTF-8"):
                run(folder, given_files, tokenizer())
            if command == "append":
                run(folder, good, tokenizer())
            else:
                bad.write_text("w9")
                run(folder, given_files, tokenizer())
            corpus = TokenCorpus.open(folder, verified=True)
            wanted = [document for document in content(corpus)[before:] if document != [9]]
            assert wanted == whole
            assert corpus.manifest.job is None


def test_a_build_that_failed_before_its_first_commit_leaves_nothing(
    tmp_path: Path, files: list[Path]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}")
    other = tokenizer()
    other.add_tokens(["w999"])
    folder = tmp_path / "books"
    with pytest.raises(InputError, match="has no field 'text'"):
        build(folder, [bad], other)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(InputError, match="has no field 'text'"):
        build(folder, [bad], other)
    assert [*folder.iterdir()] == []
    build(folder, files[:1], tokenizer())
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="has no field 'text'"):
        append_files(folder, [bad], tokenizer())
    assert (folder / "manifest.json").read_bytes() == before
    append_files(folder, files[4:], tokenizer())
    assert content(TokenCorpus.open(folder)) == [[1, 2, 3], [4]]


def test_a_build_killed_before_its_first_commit_blocks_nothing(
    tmp_path: Path, files: list[Path]
) -> None:
    folder = tmp_path / "books"
    other = tokenizer()
    other.add_tokens(["w999"])
    writer = TokenCorpus.create(folder, tokenizer=other)
    writer.add_document(range(9))
    writer.abandon()  # what a killed process leaves
    build(folder, files[:1], tokenizer())
    assert content(TokenCorpus.open(folder, verified=True)) == [[1, 2, 3]]


def test_a_log_that_grows_while_it_is_read(tmp_path: Path) -> None:
    log, folder = tmp_path / "log.jsonl", tmp_path / "books"
    line = '{"text": "w1 w2"}\n'
    log.write_text(line * 30_000)

    def grow(done: Done) -> None:
        if log.stat().st_size == 30_000 * len(line):
            log.write_text(line * 40_000)

    build(folder, [log], tokenizer(), watch=Watch(moved=grow))
    corpus = TokenCorpus.open(folder)
    [source] = corpus.sources()
    assert source["documents"] == [0, corpus.documents] == [0, 40_000]
    assert (source["bytes"], source["changed"]) == (
        log.stat().st_size,
        log.stat().st_mtime_ns,
    )
    with pytest.raises(InputError, match="has not changed since"):
        append_files(folder, [log], tokenizer())
    assert build(folder, [log], tokenizer()).documents == 0


@pytest.mark.parametrize("size", [10_000, 30_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_file_that_is_changed_while_it_is_read(tmp_path: Path, name: str, size: int) -> None:
    path, folder = tmp_path / name, tmp_path / "books"
    line = '{"text": "w1 w2"}\n'
    path.write_text(line * 30_000)

    def change(done: Done) -> None:
        if path.stat().st_mtime_ns != 1:
            path.write_text(line * size)
            os.utime(path, ns=(1, 1))

    with pytest.raises(InputError, match=r"was changed while it was read|:\d+ is not JSON"):
        build(folder, [path], tokenizer(), watch=Watch(moved=change))
    assert not folder.exists()


def test_a_file_that_is_changed_before_it_is_read(tmp_path: Path) -> None:
    """The file is recorded as it was when it was read, also by a run that resumes inside it."""
    first, later, folder = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "books"
    line = '{"text": "w1 w2"}\n'
    first.write_text(line * 30_000)
    later.write_text("")

    def change(done: Done) -> None:
        if not later.stat().st_size:
            later.write_text(line * 9)

    stop = 30_003
    watch = Watch(change, lambda: len(taken) == 1 and taken[0].documents >= stop)
    taken: list[Done] = []

    def moved(done: Done) -> None:
        change(done)
        taken[:] = [done]

    done = build(folder, [first, later], tokenizer(), watch=watch._replace(moved=moved))
    assert not done.complete
    assert done.documents == stop
    assert build(folder, [first, later], tokenizer()).complete
    assert TokenCorpus.open(folder, verified=True).documents == 30_009
    assert build(folder, [first, later], tokenizer()).documents == 0


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    path.write_text("w1")
    build(tmp_path / "books", [path], tokenizer())
    [source] = TokenCorpus.open(tmp_path / "books").sources()
    assert Path(source["path"]) == path
    with pytest.raises(InputError, match="has not changed since"):
        append_files(tmp_path / "books", [path], tokenizer())


def test_unusable_files_are_refused_before_anything_is_read(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("w1")
    os.mkfifo(tmp_path / "pipe.txt")
    for name, message in (
        ("a.csv", "cannot tell what is in"),
        ("pipe.txt", "not a regular file"),
    ):
        with pytest.raises(InputError, match=message):
            build(tmp_path / "books", [files[0], tmp_path / name], tokenizer())
    monkeypatch.setattr(
        os, "access", lambda *_: False
    )  # root may read everything, other users may not
    with pytest.raises(InputError, match=r"cannot read .*a\.txt: Permission denied"):
        build(tmp_path / "books", files, tokenizer())
    assert not (tmp_path / "books").exists()


def test_files_that_the_corpus_already_has_are_refused(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "books"
    build(folder, files[:2], tokenizer())
    with pytest.raises(InputError, match=r"a\.txt is in .* already, and has not changed"):
        append_files(folder, [files[4], files[0]], tokenizer())
    with pytest.raises(InputError, match="is already a corpus of other files"):
        build(folder, files[:1], tokenizer())
    before = TokenCorpus.open(folder).documents
    append_files(folder, files[:1], tokenizer(), again=True)
    files[0].write_text("w9")
    append_files(folder, files[:1], tokenizer())
    assert content(TokenCorpus.open(folder))[before:] == [[1, 2, 3], [9]]


def test_hostile_input(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "books"
    for given_files, message in (
        ([], "no files were given"),
        (str(files[0]), "expected a list, if only of that"),
        (files[0], "expected a list, if only of that"),
        ([""], "a file's name is ''; expected the name of a file"),
        (["a\0.txt"], "expected the name of a file"),
        ([tmp_path / "none.txt"], r"cannot read .*none\.txt: No such file"),
        ([tmp_path], r"is a folder; expected the files in it, such as .*\*"),
        ([files[0], files[0]], r"a\.txt is given twice"),
    ):
        with pytest.raises(InputError, match=message):
            build(folder, given_files, tokenizer())
        assert not folder.exists()
    with pytest.raises(CorpusError, match="is no corpus"):
        append_files(folder, files, tokenizer())
    build(folder, files[:1], tokenizer())
    other = tokenizer()
    other.add_tokens(["w999"])
    for run in (build, append_files):
        with pytest.raises(CorpusError, match="another tokenizer: the added tokens differ"):
            run(folder, files, other)
    with TokenCorpus.append(folder), pytest.raises(CorpusBusyError):
        append_files(folder, files[3:], tokenizer())


BUILD = """
import sys
from tests.helpers.corpus_builds import tokenizer
from transom.corpus import Watch, build, reading
reading.COMMIT_SECONDS = 0.01
print("ready", flush=True)
build(sys.argv[1], sys.argv[2:], tokenizer())
"""


def test_a_build_that_is_killed_many_times(tmp_path: Path) -> None:
    files = []
    for number in range(6):
        files.append(tmp_path / f"{number}.jsonl")
        rows = [" ".join(f"w{(number * k + n) % 299}" for k in range(n % 40)) for n in range(400)]
        files[-1].write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    build(tmp_path / "whole", files, tokenizer())
    wanted = content(TokenCorpus.open(tmp_path / "whole"))
    folder = tmp_path / "books"
    seen = set()
    for run in range(12):
        command = [sys.executable, "-c", BUILD, str(folder), *map(str, files)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.03 * (run + 1))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        if (folder / "manifest.json").exists():
            corpus = TokenCorpus.open(folder)
            assert content(corpus) == wanted[: corpus.documents]
            seen.add(corpus.documents)
    build(folder, files, tokenizer())
    assert content(TokenCorpus.open(folder, verified=True)) == wanted
    assert len(seen) > 1
