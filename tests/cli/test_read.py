"""The terminal: figures, plain output, mistakes, Ctrl-C; with a tiny model in a local folder."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import WORDS, run, words_of
from tests.helpers.models import tiny, tokens
from transom import Context
from transom.cli import demo
from transom.cli.interrupt import Interrupt
from transom.evaluate import read
from transom.units import plain_size

pytestmark = pytest.mark.usefixtures("piped")

SMALL = ["--policy", "sinks:2,window=30", "--chunk", "16"]


def direct(policy: str, count: int = WORDS):
    return read(Context(tiny("llama"), policy=policy, chunk=16), tokens(count).numpy())


def test_read_writes_every_figure_as_json(model, book, tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ["--compare", "window:32; full", "--compare", "chunked:32,chunk=8"]
    asked = ["--ask", "w9", "--max-new-tokens", "3", "--json", str(out)]
    assert run("read", book, "--model", model, *SMALL, *options, *asked) == 0

    figures = json.loads(out.read_text())
    assert list(figures) == ["model", "text", "runs"]
    assert figures["model"] == model
    assert figures["text"] == {"characters": len(words_of(WORDS)), "tokens": WORDS}
    policies = ["sinks:2,window=30", "window:32", "full", "chunked:32,chunk=8"]
    assert [one["policy"] for one in figures["runs"]] == policies
    for one in figures["runs"]:
        assert list(one) == [
            *("policy", "tokens", "kept", "dropped", "loss", "perplexity", "stretches"),
            *("tokens_per_second", "kv_bytes_peak", "kv_bytes_bound", "total_bytes_peak"),
            *("rss_peak", "answer"),
        ]
        expected = direct(one["policy"])
        assert one["loss"] == pytest.approx(expected.loss, rel=1e-6)
        assert one["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
        assert [list(s) for s in one["stretches"]] == [["start", "stop", "loss"]] * 5
        for stretch, wanted in zip(one["stretches"], expected.stretches, strict=True):
            assert tuple(stretch.values()) == pytest.approx(wanted, rel=1e-5)
        for name in ("tokens", "kept", "dropped", "kv_bytes_peak", "kv_bytes_bound"):
            assert one[name] == getattr(expected, name)
        assert one["tokens_per_second"] > 0
        assert one["rss_peak"] > 10_000_000
        assert re.fullmatch(r"(w\d+ ?){1,3}", one["answer"])
    printed = capsys.readouterr().out
    for one in figures["runs"]:
        assert f"{one['policy']} answers:\n{one['answer']}\n" in printed


def test_piped_output_is_plain_and_not_cut(model, book, capsys):
    assert run("read", book, "--model", model, *SMALL, "--compare", "chunked:32,chunk=8") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.isascii()
    assert "\x1b" not in printed.out
    lines = [re.split(r"\s{2,}", line.strip()) for line in printed.out.splitlines()]
    one = direct("sinks:2,window=30")
    assert [
        *("sinks:2,window=30", "300", "32", "268"),
        *(f"{one.loss:.3f}", f"{one.perplexity:,.2f}"),
    ] in lines
    assert ["sinks:2,window=30", *(f"{stretch.loss:.3f}" for stretch in one.stretches)] in lines
    [memory] = [line for line in lines if line[0] == "sinks:2,window=30" and "kB" in line[3]]
    assert memory[2:5] == [
        f"{one.kv_bytes_peak:,}",
        plain_size(one.kv_bytes_peak),
        f"{one.kv_bytes_bound:,}",
    ]


def test_hot_bytes_and_all_bytes_are_told_apart(model, book, tmp_path, capsys):
    recalls = "hierarchical:8,global=1000,recall=blocks,block=4,blocks=3"
    options = ["--policy", recalls, "--compare", "full", "--chunk", "16"]
    out, picture = tmp_path / "out.json", tmp_path / "loss.png"
    files = ["--json", str(out), "--plot", str(picture)]
    assert run("read", book, "--model", model, *options, *files) == 0
    printed = capsys.readouterr().out
    assert "KV hot" in printed
    assert "KV in all" in printed
    assert "Hot: in the cache. In all: also the cold blocks outside it" in printed
    recalled, full = json.loads(out.read_text())["runs"]
    context = Context(tiny("llama"), policy=recalls, chunk=16)
    context.append(tokens(WORDS))
    usage = context.usage
    assert usage.total_bytes == usage.kv_bytes + usage.cold_bytes
    assert recalled["total_bytes_peak"] == usage.total_bytes > recalled["kv_bytes_peak"]
    assert full["total_bytes_peak"] == full["kv_bytes_peak"]
    assert plain_size(usage.total_bytes) in printed
    assert picture.stat().st_size > 10_000


def test_stretches_past_the_trained_length_are_marked(model, book, capsys):
    run("read", book, "--model", model, *SMALL)
    header, note = "0  64*  128*  192*  256*", "* past the 64 tokens that the model was trained on"
    printed = re.sub(" {2,}", "  ", capsys.readouterr().out)
    assert header in printed
    assert note in printed
    run("read", book, "--model", model, *SMALL, "--limit", "64")
    assert "*" not in capsys.readouterr().out


def test_limit_reads_the_beginning(model, book, capsys):
    assert run("read", book, "--model", model, *SMALL, "--limit", "40", "--json", "-") == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)  # the tables go to standard error instead
    assert "perplexity" in printed.err
    assert figures["text"] == {"characters": len(words_of(40)), "tokens": 40}
    assert figures["runs"][0]["loss"] == pytest.approx(
        direct("sinks:2,window=30", 40).loss, rel=1e-6
    )


def test_reads_standard_input(model, monkeypatch, capsys):
    piped = io.TextIOWrapper(io.BytesIO(words_of(50).encode()))
    monkeypatch.setattr(sys, "stdin", piped)
    assert run("read", "-", "--model", model, *SMALL, "--json", "-") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["text"]["tokens"] == figures["runs"][0]["tokens"] == 50


def test_plot_is_a_picture(model, book, tmp_path):
    picture = tmp_path / "loss.png"
    assert run("read", book, "--model", model, *SMALL, "--plot", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BOOK", "--policy", "windw:9"], "unknown policy 'windw'. Did you mean 'window"),
        (["BOOK", "--compare", "full;window:0"], "window: size is 0; expected at least 1"),
        (["BOOK", "--limit", "0"], "--limit is 0; expected at least 1"),
        (["BOOK", "--chunk", "-1"], "--chunk is -1; expected at least 1"),
        (["BOOK", "--max-new-tokens", "0"], "--max-new-tokens is 0; expected at least 1"),
        (["BOOK", "--model", "FOLDER"], "holds no model that transformers can load"),
        (["BOOK", "--json", "FOLDER"], "is a folder; expected the name of a file"),
        (["BOOK", "--plot", "FOLDER/none/p.png"], "is not a folder open to writing"),
        (["FOLDER/none.txt"], "none.txt: No such file or directory; expected a text file"),
        (["FOLDER"], "Is a directory; expected a text file"),
        (["FOLDER/empty.txt"], "empty.txt is empty; expected some text"),
        (["FOLDER/latin.txt"], "is not UTF-8 text (byte 0xe9 at offset 3); convert it"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments, message, model, book, tmp_path, capsys, monkeypatch
):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1").replace(b"\xe9t", b"ete", 1))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = [a.replace("BOOK", book).replace("FOLDER", str(tmp_path)) for a in arguments]
    if "--model" not in given:
        given += ["--model", model]
    assert run("read", *given) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("transom: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_ctrl_c_ends_with_the_figures_so_far(model, tmp_path):
    pty = pytest.importorskip("pty")
    book, out = tmp_path / "long.txt", tmp_path / "out.json"
    book.write_text(words_of(200_000))
    ours, theirs = pty.openpty()  # stderr is a terminal, so the bar shows that reading has begun
    options = ["--model", model, *SMALL, "--compare", "full", "--ask", "w5", "--json", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "transom", "read", str(book), *options],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    ) as reading:
        os.close(theirs)
        bar = ""
        while "tok/s" not in bar:
            bar += os.read(ours, 4096).decode(errors="replace")
        reading.send_signal(signal.SIGINT)
        bar += "".join(iter(lambda: _rest(ours), ""))
        printed, _ = reading.communicate(timeout=60)
    os.close(ours)
    assert reading.returncode == 130
    assert re.search(r"sinks:2,window=30.*200,000.*tok/s.*KV \d+\.?\d* kB.*loss \d", bar)
    assert re.search(r"stopping after this pass; .*interrupted; the figures so far:", bar, re.S)
    [one] = json.loads(out.read_text())["runs"]  # the second run had not begun
    assert 0 < one["tokens"] < 200_000
    assert one["kept"] + one["dropped"] == one["tokens"]
    assert one["answer"] is None
    assert f"{one['tokens']:,}" in printed
    assert "\x1b" not in printed


def _rest(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # Linux raises this when the other end is closed
        return ""


def test_a_second_ctrl_c_aborts_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    said = []
    with Interrupt(lambda: said.append("stopping")) as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        assert said == ["stopping"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_policies_are_listed_without_torch():
    script = (
        "import sys; sys.modules.update(torch=None, transformers=None, matplotlib=None)\n"
        "from transom.cli import main; main(['policies'])"
    )
    listed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    rows = [re.split(r"\s{2,}", line.strip()) for line in listed.splitlines()]
    summary = "keeps the first few tokens and the most recent ones"
    assert ["sinks", "sinks:4,window=1020", "sinks=4, window=1020", summary] in rows
    assert {row[0] for row in rows[1:]} >= {"full", "window", "sinks", "chunked"}


def test_models_are_listed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSOM_CACHE", str(tmp_path))
    assert run("models") == 0
    listed = capsys.readouterr().out
    assert listed.startswith("smollm2\n")
    assert "cached       not yet" in listed
    assert "a hub id, a local folder" in listed
    (tmp_path / "smollm2-0.1.2").mkdir()
    (tmp_path / "smollm2-0.1.2" / "model.safetensors").write_bytes(bytes(1234))
    run("models")
    assert f"cached       in {tmp_path / 'smollm2-0.1.2'} (1.23 kB)" in capsys.readouterr().out
    kept = tmp_path / "gguf-0123-auto-5.24.0"
    kept.mkdir()
    (kept / "transom.json").write_text('{"file": "/models/my.gguf"}')
    run("models")
    assert f"/models/my.gguf\n  converted    in {kept} (27 bytes)\n" in capsys.readouterr().out


def test_demo_says_what_happened_past_the_trained_length(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "MODEL", model)
    monkeypatch.setattr(demo, "TOKENS", WORDS)
    monkeypatch.setattr(demo, "FIRST_TOKENS", 32)
    monkeypatch.setattr(demo, "reference", lambda: words_of(2 * WORDS))
    assert run("demo") == 0
    assert Path("demo.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    before, *after = direct("full").curve.stretches(64)
    later = sum(s.loss * (s.stop - s.start) for s in after) / (WORDS - 64)
    assert f"full: loss {before.loss:.2f} up to 64 tokens, {later:.2f} after" in printed
    assert "demo.png" in printed
    first, all_of_it = (printed.index(f"{n} tokens") for n in (32, WORDS))
    assert first < all_of_it


def test_demo_reads_the_whole_language_reference():
    from pydoc_data.topics import topics

    text = demo.reference()
    assert len(text) > 300_000
    assert all(topic in text for topic in topics.values())


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1234, "1.23 kB"),
        (999_600, "1 MB"),
        (47_278_080, "47.3 MB"),
        (576_000_000, "576 MB"),
        (12_340_000_000_000, "12,340 GB"),
    ],
)
def test_sizes_read_well(size, text):
    assert plain_size(size) == text
