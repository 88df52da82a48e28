"""Several processes on one store: no damage, no stale contexts, and the budget holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.helpers.forking import in_a_fork
from tests.helpers.opened_tiers import on_disk
from tests.helpers.soak import scaled
from tests.helpers.store_worker import IDS, Board, opened, read, tokens, write
from transom.errors import StoreError
from transom.memory import ContextMemoryManager
from transom.memory.tiers.disk import DiskTier

SECONDS = scaled(3, 60)


def start(role, folder, which, seconds=SECONDS, capacity=800_000):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.helpers.store_worker",
            role,
            folder,
            *map(str, (which, seconds, capacity)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(processes):
    done = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        role, count, hits = out.split()[-3:]
        done.append((role, int(count), int(hits)))
    return done


def test_writers_readers_and_an_evictor(tmp_path):
    roles = [("write", n) for n in range(4)] + [("read", 4), ("read", 5), ("evict", 6)]
    processes = [start(role, tmp_path, which) for role, which in roles]
    peak = 0
    while any(process.poll() is None for process in processes):
        if (tmp_path / "store").exists():
            peak = max(peak, on_disk(tmp_path / "store"))
        time.sleep(0.005)
    done = finished(processes)
    assert all(count > 20 for _, count, _ in done), done
    assert all(hits > 20 for role, _, hits in done if role == "read"), done
    assert peak <= 800_000
    with opened(tmp_path) as manager:
        assert manager.verify().ok
        assert manager.stats().disk_bytes == on_disk(tmp_path / "store")
        board = Board(tmp_path / "board")
        assert sum(read(manager, board, random.Random(n)) for n in range(200)) > 0


def test_two_managers_of_one_store_see_what_the_other_did(tmp_path):
    with opened(tmp_path) as one, opened(tmp_path) as other:
        assert one.add_context("a", range(500))
        assert other.get_context("a").tolist() == list(range(500))
        assert other.longest_prefix([*range(200), 9, 9]) == ("a", 192)
        assert other.add_context("b", [*range(300), 4, 4])
        assert one.get_context("b").tolist() == [*range(300), 4, 4]
        assert one.add_context("a", [5])
        assert other.get_context("a").tolist() == [5]
        assert other.get_context("b").tolist() == [*range(300), 4, 4]
        assert other.remove_context("a")
        assert one.get_context("a") is None
        assert one.add_state("b", b"state")
        assert bytes(other.get_state("b")) == b"state"
        assert other.clear() == 1
        assert len(one) == 0
        assert one.verify().ok
        assert other.verify().ok


def test_closing_one_costs_the_other_nothing(tmp_path):
    def fill(manager, first):
        for number in range(first, first + 600):
            manager.add_context(str(number), tokens(number % IDS, number))
        return manager.stats().tiers[1].entries

    with opened(tmp_path) as one:
        with opened(tmp_path) as other:
            held = [fill(one, 0), fill(other, 600)]
        held += [fill(one, 1200), fill(one, 1800)]
    with opened(tmp_path) as one:
        held.append(one.stats().tiers[1].entries)
    assert min(held) > 0.8 * max(held) > 100, held


def test_a_pin_holds_in_other_processes_and_ends_with_its_own(tmp_path):
    with opened(tmp_path) as one:
        one.add_context("a", range(2000))
        child = subprocess.Popen(
            [sys.executable, "-c", PINNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "pinned\n"
        one.evict(10**9)
        assert [c.id for c in one.contexts()] == ["a"]
        child.kill()
        child.wait()
        with opened(tmp_path):  # Opening the store removes the pins of dead processes.
            pass
        one.evict(10**9)
        assert len(one) == 0


PINNER = """
import sys, time
from pathlib import Path
from tests.helpers.store_worker import opened
manager = opened(Path(sys.argv[1]))
pin = manager.pin("a")
print("pinned", flush=True)
time.sleep(60)
"""


def test_a_fork_is_told_to_open_the_store_itself(tmp_path):
    with opened(tmp_path) as manager:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                manager.add_context("a", [1])
                os.write(writer, b"added")
            except StoreError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert b"is a fork; open another one here" in os.read(reader, 1000)
        assert manager.add_context("a", [1])


@pytest.mark.parametrize("disk", [False, True])
def test_a_fork_in_the_middle_of_a_change_is_refused_and_harms_nothing(tmp_path, disk):
    manager = opened(tmp_path) if disk else ContextMemoryManager(2**22)
    manager.add_context("a", range(500))
    pin = manager.pin("a")
    done = threading.Event()

    def busy():
        while not done.is_set():
            manager.add_context("b", range(2000), state=bytes(20_000))

    def child():
        refused = []
        for call in (lambda: manager.get_context("a"), manager.stats, lambda: len(manager)):
            with pytest.raises(StoreError, match="is a fork; open another one here"):
                call()
            refused.append(True)
        pin.close()
        manager.close()
        if not disk:
            return refused
        with opened(tmp_path) as own:
            return [*refused, own.get_context("a").tolist() == list(range(500))]

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(4):
            assert in_a_fork(child) == [True] * (4 if disk else 3)
    finally:
        done.set()
        thread.join()
    pin.close()
    assert manager.get_context("a").tolist() == list(range(500))
    assert manager.verify().ok
    manager.close()


def test_a_tier_is_refused_in_a_fork(tmp_path):
    with DiskTier(tmp_path / "store", 2**20) as tier:
        tier[1] = b"one"
        with pytest.raises(StoreError, match=r"store of contexts in .* is a fork"):
            in_a_fork(lambda: tier[1])
        in_a_fork(tier.close)
        assert bytes(tier[1]) == b"one"
        assert tier.used == on_disk(tmp_path / "store")


def test_a_living_fork_does_not_keep_the_lock_of_a_store(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from tests.helpers.store_worker import opened
manager = opened(Path(sys.argv[1]))
with manager._exclusive:
    if not os.fork():
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    time.sleep(0.2)  # until the fork has closed the files that it inherited
    process.kill()
    process.wait()
    try:
        with opened(tmp_path) as manager:
            assert manager.add_context("a", [1])
    finally:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("kills", [scaled(12, 150)])
def test_kills_at_any_moment(tmp_path, kills):
    chance = random.Random(0)
    board = Board(tmp_path / "board")
    for turn in range(kills):
        process = start("write", tmp_path, turn % 4, seconds=30)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(chance.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with opened(tmp_path) as manager:
            verified = manager.verify()
            assert verified.problems == ()
            assert manager.stats().disk_bytes == on_disk(tmp_path / "store") <= 800_000
            for number in range(60):
                read(manager, board, random.Random(number))
            write(manager, board, [turn % 24], chance)


HALF = """
import os, sys
from transom.memory.tiers.disk import DiskTier, data_file, shared
tier = DiskTier(sys.argv[2], 2**20)
def killed(*arguments):
    os._exit(9)
if sys.argv[1] == "store":
    shared.Shared.publish = killed
    tier.store(2, b"two" * 100)
else:
    data_file.DataFile.remove = killed
    del tier[1]
"""


@pytest.mark.parametrize("what", ["store", "delete"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_kill_in_the_middle_of_any_change(tmp_path, what, alone):
    store = tmp_path / "store"
    with DiskTier(store, 2**20) as tier:
        assert tier.store(1, b"one" * 100)
    other = None if alone else DiskTier(store, 2**20)
    process = subprocess.run([sys.executable, "-c", HALF, what, store], check=False)
    assert process.returncode == 9
    if other is not None:
        assert other.store(3, b"three")
        other.close()
    for lost in ("", "index", "shared"):
        if lost:
            (store / lost).unlink()
        with DiskTier(store, 2**20) as tier:
            expected = {1: b"one" * 100} if what == "store" else {}
            expected |= {} if alone else {3: b"three"}
            assert {key: bytes(value) for key, value in tier.items()} == expected
            assert tier.used == on_disk(store)


def test_an_interrupt_in_the_middle_of_any_change(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with DiskTier(tmp_path / "store", 2**20) as tier:
        assert tier.store(1, b"one")
        free = tier._known.free.total
        monkeypatch.setattr("transom.memory.tiers.disk.data_file.DataFile.write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tier.store(2, b"two")
        monkeypatch.undo()
        assert tier._known.free.total == free
        assert list(tier) == [1]
        assert tier.store(2, b"two")
