"""`transom corpus` from end to end, as a user types it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from transom.cli import main
from transom.corpus import TokenCorpus, Watch
from transom.corpus import build as build_files

STOP = Watch(stopping=lambda: True)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a folder with a tokenizer and some texts."""
    monkeypatch.chdir(tmp_path)
    words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2, "c": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save("tokenizer.json")
    Path("one.txt").write_text("a b c")
    Path("rows.jsonl").write_text('{"text": "a"}\n{"text": "b b"}\n')
    Path("more.txt").write_text("c c c c")
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["corpus", *arguments])
    return int(ended.value.code or 0)


def build(*more: str) -> int:
    return run("build", "books", "one.txt", "rows.jsonl", "--tokenizer", "tokenizer.json", *more)


def test_the_commands_together(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--workers", "2") == 0
    printed = capsys.readouterr()
    _, figures, size = printed.out.splitlines()
    assert "tokenizing with " in printed.err
    assert figures.split()[:5] == ["2", "of", "2", "3", "6"]
    assert size.startswith("books (")
    assert build() == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert run("append", "books", "more.txt") == 0
    corpus = TokenCorpus.open("books")
    assert [corpus.document(n).tolist() for n in range(4)] == [[1, 2, 3], [1], [2, 2], [3] * 4]
    capsys.readouterr()
    assert run("info", "books") == 0
    out = capsys.readouterr().out
    assert "tokens               10\n" in out
    assert "documents            4\n" in out
    assert "tokenizer            tokenizer.json\n" in out
    assert run("verify", "books") == 0
    assert "books is as it was committed: 10 tokens" in capsys.readouterr().out
    Path("out").mkdir()
    assert run("export", "books", "--to", "megatron", "out/") == 0
    assert {path.name for path in Path("out").iterdir()} == {"books.bin", "books.idx"}
    assert run("export", "books", "flat.bin", "--to", "nanogpt", "--separator", "0") == 0
    assert np.fromfile("flat.bin", "<u2").tolist() == [1, 2, 3, 0, 1, 0, 2, 2, 0, 3, 3, 3, 3, 0]


def test_damage_is_named(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build()
    path = Path("books/000000.tokens")
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    capsys.readouterr()
    assert run("verify", "books") == 1
    out = capsys.readouterr().out
    assert "000000.tokens: block 0, bytes 0 to 6: the xxh3 is not the one committed" in out
    assert "books is damaged in 1 places" in out


def test_mistakes(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build()
    capsys.readouterr()
    for arguments, message in (
        (("append", "books", "one.txt"), "one.txt is in books already"),
        (("append", "nowhere", "one.txt"), "nowhere is no corpus"),
        (("append", "books", "gone.txt"), "cannot read gone.txt"),
        (
            ("build", "books", "more.txt", "--tokenizer", "tokenizer.json"),
            "already a corpus of other files",
        ),
        (("export", "books", "x", "--to", "npz"), "no format 'npz'"),
        (("info", "nowhere"), "nowhere is no corpus"),
    ):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    with TokenCorpus.append("books"):
        assert run("append", "books", "more.txt") == 2
    assert "is being written to by process" in capsys.readouterr().err
    with TokenCorpus.create("plain", vocab_size=9):
        pass
    assert run("append", "plain", "one.txt") == 2
    assert "expected --tokenizer" in capsys.readouterr().err


def test_a_bad_file_does_not_block_the_others(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build()
    Path("bad.txt").write_bytes(b"caf\xe9")
    assert run("append", "books", "bad.txt") == 2
    assert "bad.txt is not UTF-8 text" in capsys.readouterr().err
    assert run("append", "books", "more.txt") == 0
    assert TokenCorpus.open("books").documents == 4


def test_forgetting_needs_no_files(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_files("books", ["rows.jsonl"], Tokenizer.from_file("tokenizer.json"), watch=STOP)
    assert run("append", "books", "--forget") == 0
    assert "books: the build of rows.jsonl is left as it is" in capsys.readouterr().out
    assert TokenCorpus.open("books").documents == 1
    assert run("append", "books", "--forget") == 0
    assert "books: nothing was unfinished" in capsys.readouterr().out
    assert run("append", "books") == 2
    assert "expected at least one, or --forget" in capsys.readouterr().err
    assert run("append", "books", "more.txt", "--tokenizer", "tokenizer.json") == 0


def test_a_folder_is_refused_as_a_text_file(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("many").mkdir()
    assert run("build", "books", "many", "--tokenizer", "tokenizer.json") == 2
    assert "many is a folder; expected the files in it, such as many/*" in capsys.readouterr().err
    build()
    capsys.readouterr()
    assert run("export", "books", "out/", "--to", "megatron") == 0
    assert {path.name for path in Path("out").iterdir()} == {"books.bin", "books.idx"}
    assert run("export", "books", "o", "--to", "megatron", "--separator", "0") == 2
    assert "expected no separator" in capsys.readouterr().err


def test_file_names_that_are_not_utf_8(texts: Path) -> None:
    name, folder = os.fsencode(texts) + b"/caf\xe9.txt", b"b\xf6oks"
    Path(os.fsdecode(name)).write_text("a b")
    for command in (b"build", b"info", b"verify"):
        arguments = [name, b"--tokenizer", b"tokenizer.json"] if command == b"build" else []
        command_line = [sys.executable, b"-m", b"transom", b"corpus", command, folder, *arguments]
        done = subprocess.run(command_line, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert (b"b\\udcf6oks" in done.stdout) == (command != b"info")


def test_windows_of_rows(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("b.json.gz").write_bytes(gzip.compress(b'{"t": "b c a"}\n{"t": "a"}\n'))
    Path("c.txt.gz").write_bytes(gzip.compress(b"c c"))
    Path("one.jsonl").write_text('{"t": "c"}')
    for files, documents in ((["b.json.gz", "c.txt.gz"], [0, 1, 2]), (["one.jsonl"], [0])):
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    *("windows", *files, "--out", "w.npy", "--size", "4"),
                    *("--tokenizer", "tokenizer.json", "--field", "t"),
                ]
            )
        assert not ended.value.code
        assert np.load("w.document.npy").tolist() == documents
    assert np.load("w.npy").tolist() == [[3, 0, 0, 0]]
    # As in a corpus, rows without tokens have no windows but keep their numbers.
    Path("some.jsonl").write_text("".join(f'{{"t": "{t}"}}\n' for t in ("", "a", "", "", "b c")))
    Path("empty.jsonl").write_text('{"t": ""}\n')
    for files, documents in (
        (["some.jsonl"], [1, 4]),
        (["empty.jsonl", "some.jsonl", "one.jsonl"], [2, 5, 6]),
        (["empty.jsonl"], None),
    ):
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    *("windows", *files, "--out", "w.npy", "--size", "4"),
                    *("--tokenizer", "tokenizer.json", "--field", "t"),
                ]
            )
        if documents is None:
            assert "made no tokens of any text" in capsys.readouterr().err
        else:
            assert np.load("w.document.npy").tolist() == documents
    Path("none.jsonl").write_text("\n")
    for name, message in (("rows.jsonl", "has no field 't'"), ("none.jsonl", "is empty")):
        with pytest.raises(SystemExit):
            main(
                [
                    *("windows", name, "--out", "w.npy"),
                    *("--tokenizer", "tokenizer.json", "--field", "t"),
                ]
            )
        assert message in capsys.readouterr().err


def test_ctrl_c_stops_and_the_same_command_goes_on(texts: Path) -> None:
    rows = [{"text": "a b " * (n % 50) + "c"} for n in range(60_000)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "transom", "corpus", "build", "books", "rows.jsonl"]
    command += ["--tokenizer", "tokenizer.json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    manifest = Path("books/manifest.json")
    until = time.monotonic() + 60
    while not manifest.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command again to go on" in err
    there = TokenCorpus.open("books", verified=True).documents
    assert 0 < there < len(rows)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{there:,} documents" in done.stdout
    corpus = TokenCorpus.open("books", verified=True)
    wanted = [2 * (n % 50) + 1 for n in range(60_000)]
    assert np.diff(corpus.edges).tolist() == wanted
