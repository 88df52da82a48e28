"""The log for an operator: evictions, damage, a server that goes away and comes back."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.helpers.redis_server import Server
from transom.memory import ContextMemoryManager
from transom.memory.rate_limited_log import RateLimitedLog
from transom.memory.tiers.breaker import Breaker
from transom.memory.tiers.disk import DiskTier
from transom.memory.tiers.redis import RedisTier


def lines(caplog: pytest.LogCaptureFixture, name: str = "transom") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(name)]


def test_lines_are_rare_and_count_what_happened(caplog, monkeypatch):
    now = 100.0
    monkeypatch.setattr("transom.memory.rate_limited_log.time.monotonic", lambda: now)
    log = RateLimitedLog(logging.getLogger("transom.test"), logging.INFO, "%d of %s", pause=60.0)
    with caplog.at_level(logging.INFO, "transom"):
        for _ in range(5):
            log.count("a")
        now = 159.9
        log.count("a")
        assert lines(caplog) == ["1 of a"]
        now = 160.0
        log.count("b")
    assert lines(caplog) == ["1 of a", "6 of b"]


def test_evictions_from_memory_are_logged_once(caplog):
    with (
        caplog.at_level(logging.INFO, "transom.memory"),
        ContextMemoryManager(150_000, vocab_size=50_000) as manager,
    ):
        for number in range(400):
            manager.add_context(str(number), np.full(300, number))
        assert manager.stats().tiers[0].evicted > 100
    assert lines(caplog) == [
        "1 entries were evicted from memory, which is full (150,000 bytes)",
    ]


def test_evictions_from_disk_are_logged_once(caplog, tmp_path):
    settings = {"disk": tmp_path / "store", "max_disk": 300_000, "vocab_size": 50_000}
    with ContextMemoryManager(2**24, **settings) as manager:
        with caplog.at_level(logging.INFO, "transom.memory"):
            for number in range(400):
                manager.add_context(str(number), np.full(1000, number))
        assert manager.stats().tiers[1].evicted > 100
    assert lines(caplog) == [
        "1 entries were evicted from the disk tier, which is full (300,000 bytes)"
    ]


def test_nothing_is_logged_where_there_is_room(caplog, tmp_path):
    settings = {"disk": tmp_path / "store", "max_disk": 2**24, "vocab_size": 50_000}
    with (
        caplog.at_level(logging.DEBUG, "transom"),
        ContextMemoryManager(2**24, **settings) as manager,
    ):
        assert manager.add_context("a", range(1000), state=bytes(2**20))
        assert manager.remove_context("a")
        assert manager.verify().ok
    assert lines(caplog) == []


@pytest.mark.parametrize("size", [5_000, 2**20])
def test_damage_on_disk_is_logged(caplog, tmp_path, size):
    with DiskTier(tmp_path, 2**24) as tier:
        tier[1] = b"x" * size
        path = next((tmp_path / "blocks").glob("*.kv"), tmp_path / "data")
        content = path.read_bytes()
        at = content.index(b"xxxxx") + 100
        path.write_bytes(content[:at] + b"y" + content[at + 1 :])
        assert tier.get(1) is None
    assert lines(caplog) == [f"1 damaged payloads in {tmp_path} were deleted"]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_disk_that_cannot_be_written_to_is_logged(caplog, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with DiskTier(tmp_path, 2**24) as tier:
        monkeypatch.setattr("transom.memory.tiers.disk.block_files.write_file", full)
        assert not tier.store(1, bytes(2**20))
        monkeypatch.undo()
        assert tier.failures == 1
    (line,) = lines(caplog)
    assert line.startswith("1 files in ")
    assert line.endswith("could not be written or deleted: No space left on device")


def test_a_server_that_goes_away_and_comes_back_is_logged(caplog, tmp_path):
    server = Server(tmp_path / "server")
    try:
        with RedisTier(server.url) as tier:
            tier.breaker = Breaker(after=1, pause=0.0, longest=0.0)
            tier[1] = b"one"
            server.kill()
            assert tier.get(1) is None
            assert tier.get(1) is None
            (away,) = lines(caplog)
            assert away.startswith("the Redis server does not answer: ")
            server.start()
            assert tier.store(2, b"two")
            assert bytes(tier[2]) == b"two"
            assert lines(caplog) == [away, "the Redis server answers again"]
    finally:
        server.stop()
