"""Commands whose output cannot be written, and commands that a signal ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.cli import run
from transom.cli import read as reading

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX streams and signals")
TRANSOM = f"{sys.executable} -m transom"


def shell(line: str, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--version", "--help", "policies"])
def test_a_full_output_is_named_once(command: str, unbuffered: str) -> None:
    ran = shell(f"{TRANSOM} {command} >/dev/full", unbuffered)
    assert ran.returncode == 2
    assert ran.stderr == "transom: cannot write to standard output: No space left on device.\n"


def test_a_closed_output_is_named() -> None:
    ran = shell(f"{TRANSOM} --version >&-")
    assert (ran.returncode, ran.stderr) == (
        2,
        "transom: cannot write to standard output: it is closed.\n",
    )


def test_messages_beside_the_result_may_be_lost() -> None:
    for error in ("/dev/full", "&-"):
        ran = shell(f"{TRANSOM} --version 2>{error}")
        assert (ran.returncode, ran.stdout[:8]) == (0, "transom ")
        assert shell(f"{TRANSOM} nothing 2>{error}").returncode == 2


SCRIPT = """
import sys
from transom.cli.streams import open_streams
open_streams()
with open(sys.argv[1], "w") as file:
    file.write(str(file.fileno()))
"""


def test_a_file_never_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    path = tmp_path / "number"
    assert shell(f"{sys.executable} -c '{SCRIPT}' {path} <&- >&- 2>&-").returncode == 0
    assert int(path.read_text()) > 2


def test_a_reader_that_closes_the_pipe_ends_the_command_silently() -> None:
    ran = shell(f"set -o pipefail; {TRANSOM} policies | true")
    assert ran.returncode in (0, 1)  # 0 if everything was written before the pipe was closed
    assert ran.stderr == ""


def test_figures_are_written_even_if_nobody_reads_the_table(
    model: str,
    book: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken_pipe(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(reading, "print_comparison", broken_pipe)
    figures, picture = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--limit", "32", "--json", str(figures), "--plot", str(picture)]
    assert run("read", book, "--model", model, "--policy", "window:8", *options) == 1
    assert json.loads(figures.read_text())["runs"][0]["tokens"] == 32
    assert picture.stat().st_size > 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_leaves_nothing_half_written(
    model: str,
    tmp_path: Path,
    name: str,
) -> None:
    command = [sys.executable, "-m", "transom", "windows", "-", "--tokenizer", model]
    started = subprocess.Popen(
        [*command, "--out", str(tmp_path / "w.npy")], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + 60
        while not any(tmp_path.iterdir()):
            assert started.poll() is None, started.stderr and started.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
        number = getattr(signal, name)
        started.send_signal(number)
        assert started.wait(60) == 128 + number
        assert not any(tmp_path.iterdir())
    finally:
        started.kill()
        started.communicate()
