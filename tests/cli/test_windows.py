"""`transom windows`, with a tiny model in a local folder."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow.ipc
import pyarrow.parquet
import pytest

from tests.helpers.cli import WORDS, run
from tests.helpers.models import tokens
from transom import SlidingWindow
from transom.cli import main
from transom.cli.progress import ProgressBars

pytestmark = pytest.mark.usefixtures("piped")


@pytest.mark.parametrize("name", ["w.npy", "w.parquet", "w.arrow", "w"])
def test_windows_of_texts(model, book, tmp_path, capsys, name):
    other = tmp_path / "other.txt"
    other.write_text("w1 w2 w3")
    out = tmp_path / name
    options = ["--tokenizer", model, "--out", str(out), "--size", "64", "--stride", "32"]
    assert run("windows", book, str(other), *options) == 0
    rows = windows_in(out)
    window = SlidingWindow(64, 32)
    window.add_tokens(tokens(WORDS), documents=[WORDS])
    window.add_tokens([1, 2, 3])
    expected = window.batch(0, 100)
    assert np.array_equal(rows["input_ids"], expected.ids)
    assert np.array_equal(rows["attention_mask"], expected.attention_mask)
    assert np.array_equal(rows["score_mask"], expected.score_mask)
    assert rows["document"].tolist() == [0] * 9 + [1]
    assert rows["start"].tolist() == [*range(0, 270, 32), 300]
    text = Path(book).read_text()
    spans = zip(rows["input_ids"], rows["char_start"], rows["char_stop"], strict=True)
    for ids, start, stop in spans:
        source = other.read_text() if ids[0] == 1 and ids[3] == 0 else text
        assert source[start:stop].split() == [f"w{i}" for i in ids if i]
    output = capsys.readouterr().out.splitlines()
    assert output[0].split()[:5] == ["files", "tokens", "windows", "ids", "each"]
    assert output[1].split()[:5] == ["2", "303", "10", "64", "32"]
    assert output[1].split()[6] == "301"
    assert str(out) in output[2]


def test_windows_with_special_ids_packed(model, book, tmp_path):
    out = tmp_path / "w.npy"
    options = ["--size", "66", "--overlap", "0", "--bos", "w1", "--eos", "w2", "--packed"]
    options += ["--padding-side", "left", "--tokenizer", model, "--out", str(out)]
    assert run("windows", book, book, *options) == 0
    rows = windows_in(out)
    assert rows["input_ids"].shape == rows["position_ids"].shape == (10, 66)
    assert (rows["input_ids"][:-1, [0, -1]] == [1, 2]).all()
    assert rows["score_mask"].sum() == 2 * WORDS - 2
    assert rows["attention_mask"][-1].tolist() == [0] * 40 + [1] * 26
    assert rows["position_ids"][4].tolist() == [*range(45), *range(21)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "w.csv"], "'.csv' is none of .arrow, .npy, .parquet"),
        (["--out", "w.npy", "--stride", "600"], "stride is 600 and a window has 512 tokens"),
        (["--out", "w.npy", "--padding-side", "top"], "expected 'left' or 'right'"),
        (["--out", "w.npy", "--bos", "nope"], "--bos is 'nope', for which the tokenizer has no id"),
        (["--out", "w.npy", "--drop-last"], "so there is nothing to write"),
        (["--out", "w.npy", "--tokenizer", "no.json"], "no.json is no tokenizer"),
        (["missing.txt", "--out", "w.npy"], "cannot read missing.txt"),
    ],
    ids=str,
)
def test_windows_that_cannot_be_made(
    model, book, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as exit:
        main(["windows", book, "--tokenizer", model, *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_windows_of_texts_as_they_are_read(model, tmp_path, monkeypatch):
    numbers = np.arange(300_000) % 90 + 1
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for text, half in zip(texts, (numbers[:100_000], numbers[100_000:]), strict=True):
        text.write_text(" ".join(f"w{i}" for i in half))
    moves, fed = [], []
    monkeypatch.setattr(
        ProgressBars, "start", lambda self, title, total: lambda n, _: moves.append(n)
    )
    feed = SlidingWindow.feed

    def counted(self, ids, **given):
        fed.append(len(ids))
        return feed(self, ids, **given)

    monkeypatch.setattr(SlidingWindow, "feed", counted)
    out = tmp_path / "w.npy"
    options = ["--tokenizer", model, "--out", str(out), "--size", "500", "--overlap", "0"]
    assert run("windows", *map(str, texts), *options) == 0
    assert max(fed) < 10_000  # no text is tokenized as a whole
    assert moves == sorted(moves)
    assert len(set(moves)) > 3
    assert moves[-1] == sum(text.stat().st_size for text in texts)
    rows = windows_in(out)
    assert (rows["input_ids"].reshape(-1) == numbers).all()
    span = slice(rows["char_start"][7], rows["char_stop"][7])
    assert texts[0].read_text()[span].split() == [f"w{i}" for i in rows["input_ids"][7]]


def test_interrupted_windows_leave_nothing(model, book, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(SlidingWindow, "feed", interrupted)
    before = sorted(tmp_path.iterdir())
    out = str(tmp_path / "w.parquet")
    assert run("windows", book, "--tokenizer", model, "--out", out) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def windows_in(path):
    if path.suffix == ".npy":
        columns = {p.name.split(".")[-2]: np.load(p) for p in path.parent.glob("w.*.npy")}
        return {"input_ids": np.load(path), **columns}
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
    elif path.suffix == ".arrow":
        table = pyarrow.ipc.open_file(str(path)).read_all()
    else:
        table = datasets.load_from_disk(path).with_format("arrow")[:]
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}
