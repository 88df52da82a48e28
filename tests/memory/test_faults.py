"""Disks and files that fail: misses are counted, no token is wrong, and all counts stay right."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.forking import in_a_fork
from tests.helpers.opened_tiers import on_disk
from tests.helpers.soak import scaled
from transom.errors import InputError, StoreError
from transom.memory import ContextMemoryManager
from transom.memory.stored import open_store
from transom.memory.tiers.disk import DiskTier
from transom.memory.tiers.disk.inspection import inspect_store

VOCABULARY = 50_000


def opened(folder: Path, **settings) -> ContextMemoryManager:
    return ContextMemoryManager(
        **{
            "max_memory": 400_000,
            "disk": folder,
            "max_disk": 16 << 20,
            "vocab_size": VOCABULARY,
            "block_size": 64,
            **settings,
        }
    )


def tokens(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, VOCABULARY, 500 + 37 * number)


def filled(folder: Path, count: int = 20) -> None:
    with opened(folder) as manager:
        for number in range(count):
            assert manager.add_context(str(number), tokens(number))
        assert manager.add_context("shares", np.concatenate([tokens(3)[:128], [1, 2, 3]]))
        assert manager.add_state("3", np.random.default_rng(3).bytes(2_500_000), cost=1.0)
        assert manager.add_state("4", np.random.default_rng(4).bytes(5_000))


def check(manager: ContextMemoryManager, folder: Path, count: int = 20) -> int:
    """Assert that nothing read is wrong and all counts are right; returns how many were read."""
    found = 0
    for number in range(count):
        ids = manager.get_context(str(number))
        if ids is not None:
            found += 1
            np.testing.assert_array_equal(ids, tokens(number))
    ids = manager.get_context("shares")
    if ids is not None:
        found += 1
        np.testing.assert_array_equal(ids, np.concatenate([tokens(3)[:128], [1, 2, 3]]))
    for number, size in ((3, 2_500_000), (4, 5_000)):
        state = manager.get_state(str(number))
        if state is not None:
            found += 1
            assert bytes(state) == np.random.default_rng(number).bytes(size)
    del ids, state
    assert manager.verify().problems == ()
    assert manager.stats().disk_bytes == on_disk(folder)
    return found


def regions(folder: Path) -> list[tuple[Path, int, int]]:
    """Parts of the store's files: the beginning, the middle and the end of each."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size):
        size = path.stat().st_size
        cuts = sorted({0, min(64, size), min(4096, size), size // 2, max(0, size - 64), size})
        found += [(path, a, b) for a, b in pairwise(cuts) if a < b]
    return found


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_flipped_bit_anywhere_is_a_miss_or_nothing(tmp_path):
    chance = random.Random(0)
    filled(tmp_path / "kept")
    damaged = 0
    for number, (path, start, stop) in enumerate(regions(tmp_path / "kept") * scaled(2, 40)):
        folder = tmp_path / f"copy{number}"
        subprocess.run(["cp", "-a", tmp_path / "kept", folder], check=True)
        target = folder / path.relative_to(tmp_path / "kept")
        flip(target, chance.randrange(start, stop), chance.randrange(8))
        with opened(folder) as manager:
            found = check(manager, folder)
            corrupt = sum(tier.corrupt for tier in manager.stats().tiers)
            # Each missing context was noticed. Only a missing header looks like nothing at all.
            assert found == 23 or corrupt or "data" in target.name, (target, found)
            damaged += found < 23
            # The store still works, whatever was damaged.
            assert manager.add_context("new", tokens(1))
            np.testing.assert_array_equal(manager.get_context("new"), tokens(1))
        subprocess.run(["rm", "-rf", folder], check=True)
    assert damaged > 5


def test_a_flipped_bit_while_it_is_open(tmp_path):
    chance = random.Random(1)
    filled(tmp_path / "store")
    with opened(tmp_path / "store", max_memory=100_000) as manager:
        data = tmp_path / "store" / "data"
        for _ in range(60):
            flip(data, chance.randrange(4096, data.stat().st_size), chance.randrange(8))
        found = check(manager, tmp_path / "store")
        assert found < 23
        stats = manager.stats()
        assert sum(tier.corrupt for tier in stats.tiers) > 0
        assert stats.misses > 0
        for number in range(20):
            assert manager.add_context(str(number), tokens(number))
        assert check(manager, tmp_path / "store") >= 20


@pytest.mark.parametrize("gone", ["index", "shared", "lock", "blocks"])
def test_a_file_is_missing(tmp_path, gone):
    filled(tmp_path / "store")
    subprocess.run(["rm", "-r", tmp_path / "store" / gone], check=True)
    with opened(tmp_path / "store") as manager:
        assert check(manager, tmp_path / "store") == (22 if gone == "blocks" else 23)


def test_the_data_file_is_cut_short(tmp_path):
    filled(tmp_path / "store")
    os.truncate(tmp_path / "store" / "data", 30_000)
    with opened(tmp_path / "store") as manager:
        assert 0 < check(manager, tmp_path / "store") < 23


def test_files_that_killed_processes_left(tmp_path):
    filled(tmp_path / "store")
    stale = [
        tmp_path / "store" / "blocks" / "00000000000000ff-9.kv.4194000.tmp",
        tmp_path / "store" / "blocks" / "00000000000000ff-9.kv",
        tmp_path / "store" / "index.4194000.tmp",
    ]
    for path in stale:
        path.write_bytes(bytes(100_000))
    with opened(tmp_path / "store") as manager:
        assert check(manager, tmp_path / "store") == 23
    assert not any(path.exists() for path in stale)


def test_the_index_is_of_another_store(tmp_path):
    filled(tmp_path / "one")
    filled(tmp_path / "other", count=5)
    subprocess.run(["cp", tmp_path / "other" / "index", tmp_path / "one" / "index"], check=True)
    with opened(tmp_path / "one") as manager:
        assert check(manager, tmp_path / "one") == 23


def test_a_file_that_cannot_be_deleted_stays_charged(tmp_path, monkeypatch):
    filled(tmp_path / "store")
    unlink = Path.unlink
    with opened(tmp_path / "store") as manager:

        def refused(self, missing_ok=False):
            raise PermissionError(errno.EPERM, "not permitted")

        monkeypatch.setattr(Path, "unlink", refused)
        assert manager.remove_context("3")
        assert manager.get_state("3") is None
        assert manager.verify().problems == ()
        assert manager.stats().disk_bytes == on_disk(tmp_path / "store")
        monkeypatch.setattr(Path, "unlink", unlink)
        before = on_disk(tmp_path / "store")
        assert manager.add_context("3", tokens(3))
        assert manager.stats().disk_bytes == on_disk(tmp_path / "store") < before - 2_000_000


def test_a_state_that_is_removed_while_it_is_read_stays_charged(tmp_path):
    filled(tmp_path / "store")
    with opened(tmp_path / "store") as manager:
        state = manager.get_state("3")
        manager.evict(10**9)
        assert "3" in manager
        assert manager.remove_context("3")
        assert bytes(state) == np.random.default_rng(3).bytes(2_500_000)
        assert manager.stats().disk_bytes == on_disk(tmp_path / "store") > 2_500_000
        del state
        assert manager.add_context("3", tokens(3))
        assert manager.stats().disk_bytes == on_disk(tmp_path / "store") < 2_500_000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB; mounting it needs root."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system of 16 MB needs root's rights")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_disk_is_full(small_disk):
    folder = small_disk / "store"
    with opened(folder, max_memory=200_000, max_disk=1 << 30) as manager:
        for number in range(3000):
            manager.add_context(str(number % 40), tokens(number % 20))
            if number % 3 == 0:
                manager.add_state(str(number % 40), bytes(number * 1000))
            if number == 1000:
                with contextlib.suppress(OSError):
                    (small_disk / "other").write_bytes(bytes(2 << 20))
        assert manager.stats().tiers[1].entries > 0
        assert manager.verify().problems == ()
        assert manager.stats().disk_bytes == on_disk(folder)
        for number in range(40):
            ids = manager.get_context(str(number))
            assert ids is None or np.array_equal(ids, tokens(number % 40 % 20))
    with opened(folder, max_disk=1 << 30) as manager:
        assert manager.verify().ok
        assert len(manager) > 0


def test_the_disk_is_full_from_the_start(small_disk):
    with contextlib.suppress(OSError):
        (small_disk / "other").write_bytes(bytes(16 << 20))
    with pytest.raises(StoreError, match="No space left on device"):
        opened(small_disk / "store")


def test_a_read_only_folder(small_disk):
    folder = small_disk / "store"
    filled(folder)
    before = on_disk(folder)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with opened(folder) as manager:
            for number in range(20):
                np.testing.assert_array_equal(manager.get_context(str(number)), tokens(number))
            assert manager.get_state("3") is not None
            assert manager.add_context("new", tokens(1))  # in memory
            np.testing.assert_array_equal(manager.get_context("new"), tokens(1))
            assert manager.longest_prefix(tokens(2)) is not None
            with pytest.raises(StoreError, match="can be neither removed nor replaced"):
                manager.remove_context("5")
            with pytest.raises(StoreError, match="can be neither removed nor replaced"):
                manager.add_context("5", tokens(1))
            assert manager.verify().problems == ()
        assert on_disk(folder) == before
        with pytest.raises(StoreError, match="expected a folder that can be written to"):
            opened(small_disk / "new")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_the_clock_is_set_back_and_forth(tmp_path, monkeypatch):
    wall, ticks = 1_800_000_000.0, 1000.0
    monkeypatch.setattr(time, "time", lambda: wall)
    monkeypatch.setattr(time, "monotonic", lambda: ticks)
    with opened(tmp_path / "store") as manager:
        assert manager.add_context("brief", tokens(1), ttl=60)
        assert manager.add_context("long", tokens(2))
        wall -= 10_000_000  # An open manager uses the monotonic clock, which is never set.
        ticks += 30
        assert manager.get_context("brief") is not None
    with opened(tmp_path / "store") as manager:
        assert manager.get_context("brief") is not None
        ticks += 59
        assert manager.get_context("brief") is not None
        ticks += 2  # A clock that is set back prolongs no context beyond its 60 seconds.
        assert manager.get_context("brief") is None
        assert manager.stats().expired == 1
        assert manager.add_context("brief", tokens(1), ttl=60)
    wall += 10_000_000
    with opened(tmp_path / "store") as manager:
        assert manager.get_context("brief") is None
        assert manager.get_context("long") is not None
        assert manager.verify().ok


def test_a_store_larger_than_the_new_limit(tmp_path):
    with opened(tmp_path / "store") as manager:
        for number in range(20):
            manager.add_context(str(number), np.resize(tokens(number), 100_000))
    with pytest.raises(StoreError, match=r"takes .* bytes, more than the 1,048,576 .* before.$"):
        opened(tmp_path / "store", max_disk=1 << 20)
    with opened(tmp_path / "store") as manager:
        assert manager.clear() == 20
    with opened(tmp_path / "store", max_disk=1 << 20) as manager:
        assert manager.add_context("a", tokens(1))


def test_another_vocabulary(tmp_path):
    filled(tmp_path / "store")
    with pytest.raises(StoreError, match="tokens of 2 bytes, and the vocab_size given"):
        opened(tmp_path / "store", vocab_size=200_000)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot use .*store as a store of contexts"):
        opened(tmp_path / "store")
    with pytest.raises(InputError, match="no folder is given as disk"):
        ContextMemoryManager(max_disk=2**20)
    with pytest.raises(StoreError, match="there is no store of contexts in"):
        ContextMemoryManager(disk=tmp_path / "x")


@pytest.mark.parametrize("disk", ["", " ", "a\0b", 5, b"store", ["store"], "~nobody-here/store"])
def test_a_path_that_is_not_a_folder_is_refused_by_name(tmp_path, monkeypatch, disk):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: ContextMemoryManager(disk=disk, max_disk=2**20),
        lambda: DiskTier(disk, 2**20),
        lambda: open_store(disk),
    ):
        with pytest.raises(InputError, match=r"(disk|path) is .* expected the path of"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [2**62, 2**63, 2**70])
def test_an_impossible_size_is_refused_by_name(tmp_path, size):
    with pytest.raises(
        InputError, match=r"cannot map .* expected a smaller|max_memory is .* expected at most"
    ):
        ContextMemoryManager(size)
    if size > 2**62:
        with pytest.raises(InputError, match=r"capacity is .*; expected at most"):
            ContextMemoryManager(disk=tmp_path / "store", max_disk=size)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
def test_the_store_of_another_user(tmp_path):
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    filled(folder / "store", count=5)

    def as_nobody(call):
        def child():
            os.setgid(65534)
            os.setuid(65534)
            return call()

        return in_a_fork(child)

    try:
        (folder / "store").chmod(0o755)
        for call in (lambda: opened(folder / "store"), lambda: inspect_store(folder / "store")):
            with pytest.raises(StoreError, match="Permission denied"):
                as_nobody(call)
        with pytest.raises(StoreError, match="it may belong to another user"):
            as_nobody(lambda: ContextMemoryManager(disk=folder / "store"))
        for path in [folder / "store", *(folder / "store").rglob("*")]:
            path.chmod(0o755)

        def read():
            with ContextMemoryManager(disk=folder / "store", vocab_size=VOCABULARY) as manager:
                return manager.get_context("1").tolist()

        assert as_nobody(read) == tokens(1).tolist()

        def write():
            with DiskTier(folder / "store") as tier:
                assert not tier.store(1, b"x")
                tier[1] = b"x"

        with pytest.raises(StoreError, match="the tier can only be read"):
            as_nobody(write)
    finally:
        shutil.rmtree(folder)


def test_an_empty_payload_and_a_huge_header(tmp_path):
    with DiskTier(tmp_path / "store", 1 << 20) as tier:
        assert tier.store(1, b"", b"L" * 4096)
        assert not tier.store(2, b"", b"L" * 4097)
        assert tier.header(1) == b"L" * 4096
    with DiskTier(tmp_path / "store", 1 << 20) as tier:
        assert tier.header(1) == b"L" * 4096
        assert bytes(tier[1]) == b""


def test_a_misspelt_keyword_is_named():
    with pytest.raises(InputError, match="has no parameter 'max_dsk'; did you mean 'max_disk'"):
        ContextMemoryManager(2**22, max_dsk=2**22)


@pytest.mark.parametrize("name", [None, 5, b"x", ["x"], {}])
def test_ids_and_namespaces_that_are_not_text_are_refused(name):
    with ContextMemoryManager(2**20) as manager:
        manager.add_context("x", [1, 2], state=b"s")
        calls = [
            lambda **space: manager.get_context(name, **space),
            lambda **space: manager.get_state(name, **space),
            lambda **space: manager.remove_context(name, **space),
            lambda **space: manager.extend(name, [3], **space),
            lambda **space: manager.add_state(name, b"t", **space),
            lambda **space: manager.add_context(name, [1], **space),
            lambda **space: manager.pin(name, **space),
        ]
        for call in calls:
            with pytest.raises(InputError, match=r"context_id is .*; expected text"):
                call()
        others = [lambda: manager.longest_prefix([1], namespace=name)]
        if name is not None:
            others.append(lambda: manager.clear(namespace=name))
        for call in (*others, lambda: manager.get_context("x", namespace=name)):
            with pytest.raises(InputError, match=r"namespace is .*; expected text"):
                call()
        assert name not in manager
        assert manager.get_context("x").tolist() == [1, 2]


def test_invalid_quotas_are_refused():
    for quotas in (5, [("a", 1)], "a"):
        with pytest.raises(InputError, match=r"quotas is .*; expected bytes by namespace"):
            ContextMemoryManager(2**20, quotas=quotas)
    for name in (5, "x" * 1025):
        with pytest.raises(InputError, match="in quotas: namespace"):
            ContextMemoryManager(2**20, quotas={name: 1})


def test_the_error_about_too_little_memory_names_no_disk_if_there_is_none():
    with pytest.raises(InputError, match="tables of a manager; expected at least 1"):
        ContextMemoryManager(5000)
