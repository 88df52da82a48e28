"""Machines that share a server: each gets the newest version, and a lost server is no error."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests.helpers.opened_tiers import shared_server
from tests.helpers.redis_server import Server
from transom.errors import InputError
from transom.memory import ContextMemoryManager
from transom.memory.tiers.breaker import Breaker
from transom.memory.tiers.redis import CHUNK, RedisTier


@pytest.fixture
def machine(request):
    """A function that makes managers which share a server, as machines do."""
    opened = []

    def make(**settings) -> ContextMemoryManager:
        tier = RedisTier(shared_server().url, 2**28, prefix=request.node.name)
        settings = {"max_memory": 2**22, "vocab_size": 50_000} | settings
        opened.append(ContextMemoryManager(shared=tier, **settings))
        return opened[-1]

    yield make
    for manager in opened:
        if not manager.closed:
            assert manager.verify().problems == ()
            manager.close()


def test_a_context_that_one_machine_adds_another_finds(machine):
    one, other = machine(), machine()
    assert one.add_context("a", range(500), state=b"state of a", cost=2.0)
    assert other.get_context("a").tolist() == list(range(500))
    assert bytes(other.get_state("a")) == b"state of a"
    assert other.get_context("a", namespace="tenant") is None
    assert other.longest_prefix(range(500)) == ("a", 256)
    # The machine holds it now, and only asks the server whether there is a newer version.
    hits = other.stats().tiers[-1].hits
    assert other.get_context("a") is not None
    assert other.stats().tiers[-1].hits == hits


def test_the_newest_is_returned_everywhere(machine, tmp_path):
    one, other = machine(), machine(disk=tmp_path / "store", max_disk=2**22)
    for version in range(5):
        writer, reader = (one, other) if version % 2 else (other, one)
        assert writer.add_context("a", [version] * 300)
        assert reader.get_context("a").tolist() == [version] * 300
        assert writer.add_state("a", bytes([version]) * 9)
        assert bytes(reader.get_state("a")) == bytes([version]) * 9
    assert one.extend("a", [7])
    assert other.get_context("a").tolist() == [4] * 300 + [7]
    assert other.get_state("a") is None
    assert one.remove_context("a")
    assert other.get_context("a") is None
    assert other.get_state("a") is None


def test_a_restart_knows_which_version_it_has(machine, tmp_path):
    settings = {"disk": tmp_path / "store", "max_disk": 2**22}
    first = machine(**settings)
    assert first.add_context("a", range(300))
    first.close()
    again = machine(**settings)
    assert again.get_context("a").tolist() == list(range(300))
    assert again.stats().tiers[-1].hits == 0


def test_large_states_go_in_chunks(machine):
    one, other = machine(max_memory=2**24), machine(max_memory=2**24)
    state = np.random.default_rng(0).bytes(3 * CHUNK + 17)
    assert one.add_context("a", [1, 2, 3], state=state)
    assert bytes(other.get_state("a")) == state
    tier = RedisTier(shared_server().url, 2**28, prefix="test_large_states_go_in_chunks")
    sizes = [tier._client.strlen(name) for name in tier._client.keys(f"{tier.prefix}:*:*:*")]
    assert len(sizes) == 4
    assert max(sizes) < 2**20
    assert one.remove_context("a")
    assert tier.used == 0
    assert not tier._client.keys(f"{tier.prefix}:*:*:*")


def test_a_context_expires_on_all_machines(machine):
    one, other = machine(), machine()
    assert one.add_context("a", range(300), ttl=0.3)
    assert other.get_context("a") is not None
    time.sleep(0.4)
    assert other.get_context("a") is None
    assert machine().get_context("a") is None


def test_damage_is_a_miss(machine):
    one, other = machine(), machine()
    one.add_context("a", range(300))
    tier = one._remote.tier
    (key,) = list(tier)
    name = tier._payloads._name(key)
    data = bytearray(tier._client.get(name))
    data[-3] ^= 4
    tier._client.set(name, bytes(data))
    assert other.get_context("a") is None
    assert other.stats().tiers[-1].corrupt == 1
    assert one.add_context("a", range(300))
    assert other.get_context("a") is not None


def test_payloads_that_the_server_forgot_are_no_longer_charged():
    with RedisTier(shared_server().url, 200_000, prefix="forgets", ttl=0.2) as tier:
        assert tier.store(1, bytes(150_000))
        assert not tier.store(2, bytes(150_000))
        time.sleep(0.3)
        assert tier.store(2, bytes(150_000))
        assert list(tier) == [2]


def test_a_server_that_is_killed_and_comes_back(tmp_path):
    server = Server(tmp_path / "redis")
    tier = RedisTier(server.url, 2**28)
    tier.breaker = Breaker(after=3, pause=0.1, longest=0.2)
    with ContextMemoryManager(2**22, shared=tier, vocab_size=50_000) as manager:
        assert manager.add_context("before", range(300))
        server.kill()
        began = time.perf_counter()
        for number in range(200):
            assert manager.add_context(str(number), [number] * 300)
            assert manager.get_context(str(number)).tolist() == [number] * 300
        assert manager.get_context("unknown") is None
        assert time.perf_counter() - began < 5
        assert tier.failures >= 3
        assert tier.breaker.skipped > 100
        assert manager.get_context("before") is not None
        assert manager.stats().tiers[-1].name == "redis"
        server.start()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            manager.add_context("after", range(300))
            if not tier.breaker.open:
                break
            time.sleep(0.05)
        with ContextMemoryManager(2**22, shared=RedisTier(server.url), vocab_size=50_000) as other:
            assert other.get_context("after").tolist() == list(range(300))
            assert other.get_context("before") is not None
        assert manager.verify().ok
    server.stop()


def test_changes_made_while_the_server_was_away_count(tmp_path):
    server = Server(tmp_path / "redis")
    managers = [
        ContextMemoryManager(2**22, shared=RedisTier(server.url), vocab_size=50_000)
        for _ in range(2)
    ]
    one, other = managers
    for tier in (one._remote.tier, other._remote.tier):
        tier.breaker = Breaker(after=3, pause=0.05, longest=0.05)
    assert one.add_context("replaced", [1] * 300)
    assert one.add_context("removed", [1] * 300)
    assert other.get_context("replaced") is not None
    server.kill()
    assert one.add_context("replaced", [2] * 300)
    assert one.remove_context("removed")
    server.start()
    time.sleep(0.1)
    assert one.get_context("replaced").tolist() == [2] * 300
    assert one.get_context("removed") is None
    assert other.get_context("replaced") is None
    assert other.get_context("removed") is None
    for manager in managers:
        manager.close()
    server.stop()


def test_a_server_is_killed_between_two_threads(tmp_path):
    server = Server(tmp_path / "redis")
    tier = RedisTier(server.url, 2**28)
    wrong = []
    with ContextMemoryManager(2**20, shared=tier, vocab_size=50_000) as manager:

        def work(which):
            for number in range(150):
                manager.add_context(f"{which}/{number % 7}", [which, number] * 100)
                ids = manager.get_context(f"{which}/{number % 7}")
                if ids is not None and ids.tolist() != [which, number] * 100:
                    wrong.append((which, number))

        threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        server.kill()
        time.sleep(0.1)
        server.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert manager.verify().ok
    server.stop()


def test_a_machine_without_its_server():
    with RedisTier("redis://127.0.0.1:1/0") as tier:
        assert not tier.store(1, b"x")
        assert tier.get(1) is None
        assert len(tier) == 0
        assert tier.used == 0
        assert tier.failures > 0
    with pytest.raises(InputError, match="ttl is 0; expected seconds"):
        RedisTier(ttl=0)
