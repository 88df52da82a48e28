"""What all commands share: help, version, completion, dtype and device, first mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.cli import run
from transom import __version__
from transom.cli import app, options
from transom.cli.values import tokens_of
from transom.errors import InputError

GROUPS = {"corpus": ("build", "export"), "memory": ("ls", "replay")}
COMMANDS = [
    (),
    *((command.name or command.callback.__name__,) for command in app.registered_commands),
    *((group,) for group in GROUPS),
    *((group, command) for group, commands in GROUPS.items() for command in commands),
]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_takes_h_for_help(command, capsys):
    assert run(*command, "--help") == 0
    long = capsys.readouterr().out
    assert run(*command, "-h") == 0
    assert capsys.readouterr().out == long
    assert long.startswith(f"Usage: {' '.join(['transom', *command])} ")
    assert "...\n" not in long.partition("\nCommands:")[2]  # no summary is truncated


def test_the_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"transom {__version__}\n"


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("transom re", {"read"}),
        ("transom memory ", {"stats", "ls", "verify", "evict", "clear", "replay"}),
        ("transom read --de", {"--device"}),
    ],
)
def test_the_shell_completes(line, completed):
    words = line.split(" ")
    ran = subprocess.run(
        [sys.executable, "-m", "transom"],
        env={
            "PATH": "",
            "PYTHONPATH": ":".join(sys.path),
            "_TRANSOM_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(ran.stdout.split()) == completed


def test_a_file_in_the_place_of_a_command(book, capsys):
    assert run(book) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"transom: {book} is a file; expected a command.")
    assert said.endswith(f"transom read {book}\n")
    assert run("raed", book) == 2
    assert "No such command 'raed'" in capsys.readouterr().err


COMMON = [
    ("read", "BOOK", "--model", "MODEL"),
    ("chat", "MODEL"),
    ("evaluate", "MODEL", "--text", "BOOK"),
    ("advise", "MODEL", "--text", "BOOK", "--memory", "1GB"),
    ("demo",),
]


@pytest.mark.parametrize("command", COMMON, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dtype", "float99", "--dtype is 'float99'; expected one of float32, bfloat16, float16"),
        ("--dtype", "int8", "--dtype is 'int8'; expected one of float32"),
        ("--device", "gpu", "--device is 'gpu', which cannot be used here; expected one of cpu"),
        ("--device", "cuda:99", "--device is 'cuda:99', which cannot be used here"),
        ("--device", "meta", "--device is 'meta', which cannot be used here"),
    ],
)
def test_an_unusable_device_or_dtype_is_refused(
    command, option, value, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("BOOK").write_text("w1 w2")

    def load(*args, **kwargs):
        raise AssertionError("refused before anything is loaded")

    monkeypatch.setattr("transom.models.load", load)
    assert run(*command, option, value) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"transom: {message}")
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["BOOK"]


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16", "auto"])
def test_the_model_is_loaded_as_asked(model, dtype):
    loaded = options.load(model, dtype, "cpu").model
    expected = torch.float32 if dtype in (None, "auto") else getattr(torch, dtype)
    assert {weight.dtype for weight in loaded.parameters()} == {expected}
    assert loaded.device.type == "cpu"


def test_reading_in_another_dtype(model, book, capsys):
    given = ["read", book, "--model", model, "--policy", "window:32", "--limit", "0.0625k"]
    assert run(*given) == 0
    whole = capsys.readouterr().out
    assert "64 tokens" in whole
    assert run(*given, "--dtype", "bfloat16", "--device", "cpu") == 0
    half = capsys.readouterr().out

    def kv_bytes(text: str) -> int:
        line = text.partition("KV bytes")[2].splitlines()[1]
        return int(line.split()[2].replace(",", ""))

    assert 2 * kv_bytes(half) == kv_bytes(whole)


@pytest.mark.parametrize(
    ("text", "tokens"), [("1", 1), ("4096", 4096), ("1k", 1024), ("2K", 2048), ("1_000", 1000)]
)
def test_counts_of_tokens(text, tokens):
    assert tokens_of(text, "--limit") == tokens


@pytest.mark.parametrize("text", ["0", "00", "-1", "-1k", "", "k", "1.5", "2KiB", "1e3", "nan"])
def test_invalid_counts_are_refused(text):
    with pytest.raises(
        InputError, match=r"^--limit is .*; expected (at least 1|a number of) token"
    ):
        tokens_of(text, "--limit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "MODEL", "--trials", "x"), "'x' came; expected a whole number"),
        (("evaluate", "MODEL", "--depths", "1.5"), "'1.5' came; expected a whole number"),
        (("advise", "MODEL", "--memory", "1GB", "--sessions", "1k"), "'1k' came; expected a whole"),
        (("evaluate", "MODEL", "--trials", "0"), "trials: 0 was given; it must be at least 1"),
        (("evaluate", "MODEL", "--chunk", "x"), "--chunk is 'x'; expected a number of tokens"),
        (("chat", "MODEL", "--max-new-tokens", "-1"), "--max-new-tokens is -1; expected at least"),
        (("chat", ""), "no model ''"),
        (("chat", "smolm"), "Did you mean 'smollm2'?"),
        (("read", ""), "cannot read ''"),
        (("top", "FOLDER", "--every", "nan"), "--every is nan; expected at least 0.05 seconds"),
        (("top", "FOLDER", "--every", "-1"), "--every is -1.0; expected at least 0.05 seconds"),
        (("patterns", "full", "--length", "1.5"), "--length is '1.5'; expected a number of tokens"),
        (("memory", "ls", "FOLDER"), "there is no store of contexts in"),
        (("read", "--polcy", "full"), "--policy"),
        (("windows", "x", "--out", "w.npy", "--size", "0"), "--size is 0; expected at least 1"),
        (("windows", "x", "--out", "w.npy", "--size", "9" * 22), "--size is '999"),
        (("windows", "x", "--out", ""), "'' came; expected a name"),
        (("windows", "x", "--out", "-"), "- came; expected a name, such as ./-"),
        (("evaluate", "MODEL", "--out", ""), "'' came; expected a name"),
        (("corpus", "build", "", "x.txt"), "'' came; expected a name"),
        (("corpus", "build", "c", "-"), "- stands for standard input, which cannot be read again"),
        (("corpus", "build", "c", "x.txt", "--workers", "0"), "0 came; expected at least 1"),
        (("patterns", "full", "--plot", "-"), "- came; expected a name"),
        (("patterns", "full", "--heads", "x"), "'x' came; expected a whole number"),
        (("patterns", "full", "--length", "9" * 20), "--length is '9999"),
        (("patterns", "full", "--length", "4000m"), "length is 4194304000; expected at most"),
        (("patterns", f"sinks({2**63})"), "expected at most"),
        (("read", "x.txt", "--compare", ";"), "--compare is ';'; expected at least one policy"),
        (("chat", "--temperature", "x"), "'x' came; expected a number"),
        (("chat", "--seed", "-1"), "-1 came; expected at least 0"),
        (("chat", "--session", "-"), "- came; expected a name"),
        (("top", "FOLDER", "--every", "1e30"), "--every is 1e+30; expected at least 0.05 seconds"),
        (("memory", "replay", "gone"), "cannot read the trace gone"),
        (("memory", "replay", "x.csv", "--capacity", "x"), "'x' came; expected a number"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_first_mistakes(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    given = [one.replace("MODEL", model).replace("FOLDER", str(tmp_path)) for one in arguments]
    assert run(*given) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
@pytest.mark.parametrize("command", [("policies",), ("--help",)])
def test_an_output_that_is_full_is_one_line(command):
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "transom", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ran.returncode == 2
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_text_in_the_place_of_a_tokenizer(book, tmp_path, capsys):
    assert run("windows", book, "--out", str(tmp_path / "w.npy"), "--tokenizer", book) == 2
    assert f"{book} is a file, and no tokenizer.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("read", "{}", "--json", "{}"),
        ("read", "{}", "--json", "x.png", "--plot", "x.png"),
        ("advise", "smollm2", "--memory", "1GB", "--text", "{}", "--json", "{}"),
        ("memory", "replay", "{}", "--json", "{}"),
        ("windows", "{}", "--out", "{}"),
    ],
    ids=" ".join,
)
def test_an_input_file_is_not_overwritten(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given.parquet"
    path.write_text("text")
    (tmp_path / "again.parquet").hardlink_to(path)
    first, *rest = (one.replace("{}", "again.parquet") for one in reversed(command))
    given = [*reversed(rest), first.replace("again", "given")]
    assert run(*given) == 2
    assert "is given twice" in capsys.readouterr().err
    assert path.read_text() == "text"


def test_a_text_in_the_place_of_a_model(book, capsys):
    assert run("chat", book) == 2
    assert f"{book} is a file, and not a .gguf file; expected an alias" in capsys.readouterr().err
