"""`transom memory` and `transom top`: what they print, and what they do to a store."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys

import numpy as np
import pytest

from tests.helpers.terminal import Terminal
from transom.cli import main
from transom.cli.top import HEADER
from transom.memory import ContextMemoryManager


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    return exit.value.code or 0


def opened(folder):
    return ContextMemoryManager(2**22, disk=folder, max_disk=2**24, vocab_size=50_000)


@pytest.fixture
def store(tmp_path):
    with opened(tmp_path / "store") as manager:
        assert manager.add_context("a", range(1000))
        assert manager.add_context("b", range(600), ttl=3600, state=bytes(5000))
        assert manager.add_context("c", [1, 2, 3], namespace="tenant")
    return tmp_path / "store"


def test_stats(store, capsys):
    assert run("memory", "stats", store) == 0
    out = capsys.readouterr().out
    assert "contexts" in out
    assert "(none)" in out
    assert "tenant" in out
    assert run("memory", "stats", store, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["contexts"], figures["tokens"], figures["states"]) == (3, 1603, 1)
    assert figures["shared_bytes"] == 2 * 512
    assert figures["disk_capacity"] == 2**24
    assert figures["namespaces"]["tenant"] == {
        "contexts": 1,
        "tokens": 3,
        "own_bytes": 6,
        "state_bytes": 0,
    }


def test_ls(store, capsys):
    assert run("memory", "ls", store) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["b", "a"]
    assert "5,000" in lines[1]
    assert run("memory", "ls", store, "--json", "--namespace", "tenant") == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert (only["id"], only["tokens"], only["tiers"]) == ("c", 3, ["disk"])


def test_verify(store, capsys):
    assert run("memory", "verify", store) == 0
    assert "4 entries read, all as they were written" in capsys.readouterr().out
    data = (store / "data").read_bytes()
    at = data.find(np.arange(700, 720, dtype=np.uint16).tobytes())
    with (store / "data").open("r+b") as file:
        file.seek(at)
        file.write(b"damage")
    assert run("memory", "verify", store) == 1
    out = capsys.readouterr().out
    assert "damaged, and deleted: a" in out
    with opened(store) as manager:
        assert manager.verify().ok
        assert manager.get_context("c", namespace="tenant").tolist() == [1, 2, 3]


def test_evict_and_clear(store, capsys):
    assert (
        run("memory", "evict", store, "1 kB") == 0
    )  # Only the state can be evicted: other entries continue all the others.
    assert capsys.readouterr().out == "5 kB evicted: 0 of 3 contexts\n"
    assert run("memory", "evict", store, "1MiB") == 0
    assert "3 of 3 contexts" in capsys.readouterr().out
    with opened(store) as manager:
        assert manager.add_context("a", range(10))
        assert manager.add_context("c", range(10), namespace="tenant")
    assert run("memory", "clear", store, "--yes", "--namespace", "tenant") == 0
    assert run("memory", "clear", store, "--yes") == 0
    with opened(store) as manager:
        assert len(manager) == 0


def test_clear_asks(store, capsys, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda *a, **k: (_ for _ in ()).throw(SystemExit(1)))
    assert run("memory", "clear", store) == 1
    with opened(store) as manager:
        assert len(manager) == 3


@pytest.mark.parametrize("command", ["stats", "ls", "verify", "clear"])
def test_a_missing_store_is_refused(command, tmp_path, capsys):
    assert run("memory", command, tmp_path / "nothing") == 2
    assert "there is no store of contexts in" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_invalid_sizes_are_refused(store, capsys):
    assert run("memory", "evict", store, "lots") == 2
    assert "SIZE is 'lots'; expected a size such as 2GiB" in (capsys.readouterr().err)


def test_top_once(store, capsys):
    with opened(store) as manager:
        for _ in range(5):
            assert manager.get_context("a") is not None
            assert manager.get_context("unknown") is None
        manager._report()
        assert run("top", store, "--once", "--every", "0.05") == 0
    out = capsys.readouterr().out
    assert f"{store}: " in out
    assert "of 16.8 MB" in out
    (line,) = [line for line in out.splitlines() if line.split()[0] == str(os.getpid())]
    assert "50.0%" in line
    assert line.split()[2] == "s"
    assert run("top", store.parent / "nothing") == 2


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_top_at_a_terminal_until_the_store_is_gone(store):
    with opened(store) as manager:
        manager._report()
        with Terminal(sys.executable, "-m", "transom", "top", str(store)) as terminal:
            shown = terminal.expect(" gone ")
            assert [*shown.splitlines()[-1].split()] == [name for name in HEADER if name]
            shutil.rmtree(store)
            terminal.expect("there is no store of contexts in")
            assert terminal.end() == 2


def test_a_store_of_another_version(store, capsys):
    with open(store / "shared", "r+b") as file:
        file.seek(8)
        file.write(struct.pack("<Q", 99))
    assert run("top", store, "--once") == 2
    assert "it is of another version of transom" in capsys.readouterr().err
