"""`transom evaluate` from the terminal, with a tiny model in a local folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from tests.helpers.cli import words_of
from tests.helpers.models import tiny
from transom.cli import app, main
from transom.cli.values import depths_of, lengths_of, policies_of
from transom.errors import InputError
from transom.evaluate.rows import from_json

pytestmark = pytest.mark.usefixtures("piped")

SMALL = ["--lengths", "200,400", "--depths", "2", "--chunk", "32"]
POLICIES = ["--policies", "full;sinks:2,window=30"]


@pytest.fixture
def book(tmp_path) -> str:
    path = tmp_path / "book.txt"
    path.write_text(". ".join(words_of(20) for _ in range(30)))
    return str(path)


def evaluated(*arguments: str):
    """Run the command through typer's runner, which returns transom's errors as exceptions."""
    return CliRunner().invoke(app, ["evaluate", *arguments])


def rows_in(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def timeless(rows):
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def test_writes_figures_and_a_page(model, book, tmp_path):
    out = tmp_path / "report"
    ran = evaluated(
        *(model, "--text", book, *SMALL, *POLICIES, "--recompute", "32", "--out", str(out))
    )
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in out.iterdir()) == [
        *("report.html", "results.json", "rows.jsonl"),
    ]
    figures = json.loads((out / "results.json").read_text())
    assert figures["complete"] is True
    assert figures["settings"]["text"] == "book.txt"
    assert figures["facts"]["trained_length"] == 64
    assert [one["policy"] for one in figures["policies"]] == [
        *("full", "sinks:2,window=30", "recompute:32"),
    ]
    kinds = [row["kind"] for row in figures["rows"]]
    assert kinds.count("recall") == 2 * 2 * (3 * 2 + 4)
    assert kinds.count("loss") == 3
    assert kinds.count("speed") == 6
    assert all(from_json(row) for row in figures["rows"])
    page = (out / "report.html").read_text()
    for one in figures["policies"]:
        assert one["policy"] in page
        [line] = [x for x in ran.stdout.splitlines() if x.startswith(one["policy"])]
        assert f"{one['loss']:.3f}" in line
    assert str(out / "report.html") in ran.stdout
    assert ran.stderr == ""


def test_goes_on_where_it_was_and_adds_policies(model, book, tmp_path):
    out, other = tmp_path / "a", tmp_path / "b"
    options = [model, "--text", book, *SMALL, "--tasks", "passkey,loss"]
    evaluated(*options, "--policies", "full", "--out", str(out))
    before = (out / "rows.jsonl").read_text()
    evaluated(*options, *POLICIES, "--out", str(out))
    assert (out / "rows.jsonl").read_text().startswith(before)
    evaluated(*options, *POLICIES, "--out", str(other))
    assert timeless(rows_in(out)) == timeless(rows_in(other))
    evaluated(*options, "--policies", "window:32", "--out", str(other), "--fresh")
    assert {row["policy"] for row in rows_in(other)} == {"window:32"}


def test_another_text_in_the_same_folder_is_refused(model, book, tmp_path):
    out = str(tmp_path / "report")
    options = [model, *SMALL, *POLICIES, "--tasks", "passkey", "--out", out]
    assert evaluated(*options, "--text", book).exit_code == 0
    ran = evaluated(*options, "--text", book, "--seed", "5")
    assert isinstance(ran.exception, InputError)
    assert "with seed 0; this one has seed 5. Choose another folder" in str(ran.exception)


def test_ctrl_c_ends_with_the_figures_so_far_and_the_rest_follows(model, book, tmp_path):
    pty = pytest.importorskip("pty")
    out, whole = tmp_path / "report", tmp_path / "whole"
    options = [model, "--text", book, *SMALL, *POLICIES, "--trials", "12", "--tasks", "passkey"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "transom", "evaluate", *options, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    ) as running:
        os.close(theirs)
        shown = ""
        while not re.search(r"passkey \d+", shown):
            shown += os.read(ours, 4096).decode(errors="replace")
        running.send_signal(signal.SIGINT)
        shown += "".join(iter(lambda: _rest(ours), ""))
        printed, _ = running.communicate(timeout=60)
    os.close(ours)
    assert running.returncode == 130
    assert "interrupted; the figures so far:" in shown
    record = (out / "rows.jsonl").read_text() if (out / "rows.jsonl").exists() else ""
    assert len(record.splitlines()) < 1 + 2 * 2 * 24
    if record:
        assert json.loads((out / "results.json").read_text())["complete"] is False
        assert "report.html" in printed
    assert evaluated(*options, "--out", str(out)).exit_code == 0
    assert (out / "rows.jsonl").read_text().startswith(record)
    evaluated(*options, "--out", str(whole))
    assert timeless(rows_in(out)) == timeless(rows_in(whole))


def _rest(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # Linux raises this when the other end is closed
        return ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "windw:9"], "unknown policy 'windw'"),
        (["--policies", ";"], "there are no policies"),
        (["--tasks", "neddle"], "unknown task 'neddle'; known tasks: loss, passkey"),
        (["--lengths", "4q"], "--lengths is '4q'; expected a number of tokens such as 4096 or 4k"),
        (["--lengths", "64k"], "of it are to be read at once; give a longer one"),
        (["--lengths", "10"], "too short for its question"),
        (["--depths", "0"], "--depths is 0; expected at least 1"),
        (["--trials", "0"], "must be at least 1"),
        (["--recompute", "some"], "--recompute is 'some'; expected a number of tokens"),
        (["--chunk", "0"], "--chunk is 0"),
        (["--text", "none.txt"], "cannot read none.txt"),
        (["--out", "BOOK"], "expected --out to be a folder"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments,
    message,
    model,
    book,
    tmp_path,
    capsys,
):
    given = [one.replace("BOOK", book) for one in arguments]
    for option, value in (("--text", book), ("--out", str(tmp_path / "out")), ("--chunk", "32")):
        given += [] if option in given else [option, value]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", model, *given])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("transom: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_options_that_name_several_things():
    assert [str(one) for one in policies_of("full; sinks:2,window=3;")] == [
        "full",
        "sinks:2,window=3",
    ]
    assert lengths_of("2k, 500,2048") == (500, 2048)
    assert depths_of(1) == (0.5,)
    assert depths_of(3) == (0.0, 0.5, 1.0)


@pytest.mark.model
def test_smollm2_remembers_what_it_can_see(tmp_path):
    out = tmp_path / "report"
    ran = evaluated(
        *("smollm2", "--policies", "full;sinks:4,window=124", "--tasks", "needle,loss"),
        *("--lengths", "300", "--depths", "2", "--trials", "2", "--out", str(out)),
    )
    assert ran.exit_code == 0, ran.output
    rows = rows_in(out)
    right = {(r["policy"], r["depth"]): r["right"] for r in rows if r["kind"] == "recall"}
    assert right["full", 0.0]
    assert right["full", 1.0]
    assert right["sinks:4,window=124", 1.0]
    assert not right["sinks:4,window=124", 0.0]
    losses = {row["policy"]: row["loss"] for row in rows if row["kind"] == "loss"}
    assert 1 < losses["full"] < losses["sinks:4,window=124"] < 5


def advised(*arguments: str):
    return CliRunner().invoke(app, ["advise", *arguments])


@pytest.fixture(scope="module")
def longer(model, tmp_path_factory) -> str:
    """The same as `model`, but trained on 512 tokens."""
    folder = tmp_path_factory.mktemp("longer")
    tiny("llama", max_position_embeddings=512).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


TOKEN = 2 * 3 * 2 * 8 * 4  # bytes: keys and values, layers, kv heads, size of a head, float32


def test_advice_with_the_command_and_the_line_to_use(longer, book, tmp_path):
    out, target = tmp_path / "report", tmp_path / "advice.json"
    ran = advised(
        *(longer, "--text", book, "--length", "600", "--chunk", "64"),
        *("--memory", f"{300 * TOKEN * 3}", "--sessions", "3", "--policies", "window:{}"),
        *("--out", str(out), "--json", str(target)),
    )
    assert ran.exit_code == 0, ran.output
    advice = json.loads(target.read_text())
    assert [one["policy"] for one in advice["options"]] == [
        *("window:128", "window:256", "window:512", "full"),
    ]
    obstacles = [one["obstacle"] for one in advice["options"]]
    assert obstacles == [None, None, "too large", "grows"]
    assert [one["sessions"] for one in advice["options"]] == [7, 3, 1, 0]  # full takes whole blocks
    best = advice["recommended"]
    assert best in ("window:128", "window:256")
    assert f"transom read {book} --model {longer} --policy {best}" in ran.stdout
    assert f'Context.from_pretrained("{longer}", policy="{best}")' in ran.stdout
    assert "keys and values of 300 tokens, 384 bytes per token" in ran.stdout
    [line] = [x for x in ran.stdout.splitlines() if x.startswith(f"{best}  ")]
    assert "recommended" in line
    assert (out / "report.html").exists()
    again = advised(
        *(longer, "--text", book, "--length", "600", "--chunk", "64"),
        *("--memory", f"{300 * TOKEN * 3}", "--sessions", "3", "--policies", "window:{}"),
        *("--latency", "1us", "--out", str(out), "--json", str(target)),
    )
    assert again.exit_code == 1
    assert "No policy that fits takes 1 µs per token or less. The fastest, window:" in again.stdout
    assert json.loads(target.read_text())["recommended"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "2Gi"], "--memory is '2Gi'; expected a size such as 2GiB"),
        (["--latency", "60"], "--latency is '60'; expected a time with its unit"),
        (["--sessions", "0"], "sessions are 0"),
        (["--memory", "1kB"], "1,000 bytes are 1,000 for each session"),
        (["--policies", "sinks:4"], "'sinks:4' has no {}"),
        (["--policies", ""], "there are no policies"),
        (["--dtype", "float8"], "--dtype is 'float8'; expected one of float32"),
        (["--length", "100"], "prompts of 100 tokens are too short to choose by"),
    ],
    ids=str,
)
def test_advice_that_cannot_be_given(longer, book, arguments, message):
    given = arguments if "--memory" in arguments else [*arguments, "--memory", "1GB"]
    ran = advised(longer, "--text", book, *given)
    assert isinstance(ran.exception, InputError)
    assert message in str(ran.exception)
