"""A server returns what was added last or nothing, whatever it forgets or refuses."""

from __future__ import annotations

import contextlib
import random
import socket
import time

import numpy as np
import pytest

from tests.helpers.opened_tiers import shared_server
from tests.helpers.redis_server import Server
from transom.errors import BudgetError, InputError, StoreError
from transom.memory import ContextMemoryManager, RedisTier
from transom.memory.tiers.redis.head import Versions


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "redis", persistent=False)
    yield server
    server.stop()


def machines(server, count=2, **settings):
    made = [
        ContextMemoryManager(2**24, vocab_size=50_000, shared=RedisTier(server.url, **settings))
        for _ in range(count)
    ]
    return made if count > 1 else made[0]


def free_port() -> int:
    """A free port, so low that a cluster can also use the port 10,000 above it."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return found.getsockname()[1]


def restart(server):
    server.kill()
    server.start()


def flush(server):
    client(server).flushall()


def client(server, **settings):
    import redis

    return redis.Redis(unix_socket_path=str(server.socket), **settings)


@pytest.mark.parametrize("forget", [restart, flush])
def test_a_server_that_forgot_everything(server, forget):
    one, other = machines(server)
    one.add_context("a", [1, 1], state=b"old")
    one.add_context("gone", [5])
    assert other.get_context("a").tolist() == [1, 1]
    assert bytes(other.get_state("a")) == b"old"
    assert other.get_context("gone") is not None
    one.remove_context("gone")
    forget(server)
    assert other.get_context("gone") is None
    one.add_context("a", [2, 2])
    assert other.get_context("a").tolist() == [2, 2]
    assert other.get_state("a") is None
    forget(server)
    assert other.get_context("a") is None
    assert one.get_context("a") is None
    with pytest.raises(InputError, match="cannot pin 'a': it is not held"):
        one.pin("a")


def test_keys_that_go_one_by_one_in_any_order(server):
    """Compared with a dictionary: nothing that was replaced or removed is returned."""
    managers = machines(server, 3, ttl=100)
    chance, direct = random.Random(0), client(server)
    model: dict[str, int] = {}
    states: dict[str, bytes] = {}
    found = 0
    for number in range(1500):
        manager, name = chance.choice(managers), str(chance.randrange(5))
        what = chance.randrange(10)
        if what < 2:
            model[name] = number
            states.pop(name, None)
            assert manager.add_context(name, [number] * 3)
        elif what == 2 and name in model and manager.get_context(name) is not None:
            states[name] = str(number).encode()
            assert manager.add_state(name, states[name])
        elif what == 3 and chance.random() < 0.3:
            model.pop(name, None)
            states.pop(name, None)
            manager.remove_context(name)
        elif what == 4:
            keys = direct.keys()
            if keys:
                direct.delete(chance.choice(keys))
        else:
            ids, state = manager.get_context(name), manager.get_state(name)
            assert ids is None or ids.tolist() == [model[name]] * 3
            assert state is None or bytes(state) == states[name]
            found += ids is not None
    assert found > 100
    for manager in managers:
        assert manager.verify().ok


@pytest.mark.parametrize(
    "policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-ttl", "noeviction"]
)
def test_a_server_that_evicts(tmp_path, policy):
    options = ("--maxmemory", "4mb", "--maxmemory-policy", policy)
    server = Server(tmp_path / "redis", *options, persistent=False)
    try:
        one, other = machines(server, capacity=3_000_000)
        chance = np.random.default_rng(0)
        latest = {}
        for number in range(400):
            name = str(number % 80)
            latest[name] = chance.integers(0, 50_000, 8000)
            assert (one, other)[number % 2].add_context(name, latest[name])
            looked_at = str(int(chance.integers(80)))
            ids = (other, one)[number % 2].get_context(looked_at)
            assert ids is None or ids.tolist() == latest[looked_at].tolist()
        tier = RedisTier(server.url, 3_000_000)
        assert 0 <= tier.used <= 3_000_000
        one.add_context("new", range(500))
        if policy != "noeviction":
            assert other.get_context("new").tolist() == list(range(500))
        assert tier.failures == 0
    finally:
        server.stop()


def test_a_replica_that_takes_over_without_the_latest_versions(server):
    one, other = machines(server)
    one.add_context("a", [1])
    assert other.get_context("a").tolist() == [1]
    direct = client(server)
    before = {key: direct.get(key) for key in direct.keys("*:[0-9a-f]*")}
    one.add_context("a", [2])
    for key, value in before.items():
        direct.set(key, value)
    # Nobody can tell which of the two versions is later, so neither is returned.
    assert one.get_context("a") is None
    assert other.get_context("a") is None
    one.add_context("a", [3])
    assert other.get_context("a").tolist() == one.get_context("a").tolist() == [3]


def test_a_replaced_version_does_not_win_because_its_clock_was_ahead(server, monkeypatch):
    one, other, third = machines(server, 3)
    now = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)
        one.add_context("a", [1], state=b"one")
    assert other.get_context("a").tolist() == [1]
    assert bytes(other.get_state("a")) == b"one"
    flush(server)
    third.add_context("a", [2], state=b"two")
    for manager in (one, other, third):
        state, ids = manager.get_state("a"), manager.get_context("a")
        assert state is None or bytes(state) == b"two"
        assert ids is None or ids.tolist() == [2]
    third.add_context("a", [3], state=b"three")
    for manager in (one, other, third):
        assert manager.get_context("a").tolist() == [3]
        assert bytes(manager.get_state("a")) == b"three"


def test_new_versions_are_above_all_that_were_seen(server, monkeypatch):
    one, other = machines(server)
    now = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)
        one.add_context("b", [1])
        one.add_context("a", [1])  # a later version, which the other machine sees
    assert other.get_context("a").tolist() == [1]
    assert one.get_context("b").tolist() == [1]
    flush(server)
    # A machine numbers above all versions that it has seen, whatever its clock says.
    other.add_context("b", [2])
    assert one.get_context("b").tolist() == [2]


def test_a_refused_write_does_not_stop_reads(server):
    one, other = machines(server)
    one.add_context("old", range(300))
    one.add_context("replaced", [1])
    assert other.get_context("replaced").tolist() == [1]
    direct = client(server)
    direct.config_set("maxmemory", 1)
    assert one.add_context("replaced", [2])
    for number in range(20):
        assert one.add_context(f"new/{number}", [number])
    assert one.get_context("replaced").tolist() == [2]
    assert other.get_context("replaced") is None
    fresh = machines(server, 1)
    assert fresh.get_context("old").tolist() == list(range(300))
    tier = one._remote.tier
    assert tier.refusals > 0
    assert tier.failures == 0
    direct.config_set("maxmemory", 0)
    one.add_context("after", [3])
    assert fresh.get_context("after").tolist() == [3]


def test_a_replica_that_can_only_be_read(server, tmp_path):
    port = free_port()
    replica = Server(tmp_path / "replica", persistent=False)
    try:
        one = machines(server, 1)
        one.add_context("a", range(77))
        # Over the loopback, because a replica cannot connect to a Unix socket.
        client(server).config_set("port", port)
        client(server).config_set("repl-diskless-sync-delay", 0)
        client(replica).execute_command("REPLICAOF", "127.0.0.1", port)
        reader = machines(replica, 1)
        for _ in range(500):
            if client(replica).info("replication")["master_link_status"] == "up":
                break
            time.sleep(0.02)
        for number in range(5):
            assert reader.add_context(f"own/{number}", [number])
            assert reader.get_context(f"own/{number}").tolist() == [number]
        one.add_context("b", [4])
        client(server).execute_command("WAIT", 1, 2000)
        assert reader.get_context("b").tolist() == [4]
        assert reader.get_context("a").tolist() == list(range(77))
        assert reader._remote.tier.failures == 0
    finally:
        replica.stop()


def test_clients_that_decode(server):
    one = machines(server, 1)
    tier = RedisTier(client=client(server, decode_responses=True))
    other = ContextMemoryManager(2**22, vocab_size=50_000, shared=tier)
    one.add_context("a", range(300), state=b"\xff\xfe")
    assert other.get_context("a").tolist() == list(range(300))
    assert bytes(other.get_state("a")) == b"\xff\xfe"
    other.add_context("b", [1])
    assert one.get_context("b").tolist() == [1]


def test_lost_bookkeeping_is_counted_anew(server):
    tier = RedisTier(server.url, 200_000, prefix="a*[b]")
    for number in range(1, 6):
        assert tier.store(number, bytes(20_000))
    used = tier.used
    client(server).delete("a*[b]:sizes")
    assert sorted(tier) == [1, 2, 3, 4, 5]
    assert tier.store(6, bytes(20_000))
    assert tier.used == used // 5 * 6
    for number in range(1, 6):
        client(server).delete(f"a*[b]:{number:016x}")
    assert all(tier.store(number, bytes(20_000)) for number in range(11, 19))
    assert 0 < tier.used <= 200_000
    assert tier.failures == tier.refusals == 0


def test_foreign_bookkeeping_is_ignored(server):
    tier = RedisTier(server.url, 200_000)
    client(server).hset("transom:sizes", mapping={"used": "much", "other": "1"})
    assert tier.used == 0
    tier[1] = b"one"
    assert list(tier) == [1]
    assert 0 < tier.used < 1000


def test_a_refusal_of_the_server_is_not_reported_as_a_lack_of_room(server):
    tier = RedisTier(server.url, 200_000)
    client(server).config_set("maxmemory", 1)
    with pytest.raises(StoreError, match="did not answer or refused"):
        tier[1] = b"one"
    client(server).config_set("maxmemory", 0)
    tier[1] = bytes(150_000)
    with pytest.raises(BudgetError, match="no room for the 100,000 bytes"):
        tier[2] = bytes(100_000)
    server.kill()
    with pytest.raises(StoreError, match="did not answer or refused"):
        tier[1] = b"two"


def test_versions_do_not_repeat_where_clocks_are_behind():
    former = time.time_ns() // 1000 + 10**9 << 12  # a quarter of an hour ahead
    made = []
    for _ in range(100):
        versions = Versions()
        versions.seen(former)
        made.append(versions.next())
    assert min(made) > former
    assert len(set(made)) == 100


def test_invalid_settings_of_a_server_are_refused_by_name():
    import redis

    with pytest.raises(InputError, match=r"url is 'http://x'.*expected one such as"):
        RedisTier("http://x")
    for url in (
        "redis://127.0.0.1:1/0?nonsense=1",
        "redis://127.0.0.1:1/0?protocol=9",
        "redis://127.0.0.1:1/0?socket_timeout=abc",
        None,
    ):
        with pytest.raises(InputError, match=r"url is .*expected one such as"):
            RedisTier(url)
    with pytest.raises(InputError, match=r"client is a redis\.client\.Pipeline; expected a redis"):
        RedisTier(client=redis.Redis().pipeline())
    with pytest.raises(InputError, match=r"RedisTier.* has no parameter 'tll'; did you mean 'ttl'"):
        RedisTier(tll=5)
    with pytest.raises(InputError, match=r"prefix is '.ud800'"):
        RedisTier(prefix="\ud800")
    with pytest.raises(InputError, match=r"client is a redis\.asyncio"):
        RedisTier(client=redis.asyncio.Redis())
    with pytest.raises(InputError, match=r"client is a builtins\.str"):
        RedisTier(client="redis://")
    sentinel = redis.sentinel.Sentinel([])
    pool = redis.sentinel.SentinelConnectionPool("name", sentinel, decode_responses=True)
    with pytest.raises(InputError, match="expected one made without it"):
        RedisTier(client=redis.Redis(connection_pool=pool))
    for ttl in (0, -1, float("nan"), float("inf"), "1", True):
        with pytest.raises(InputError, match=r"ttl is .*; expected seconds"):
            RedisTier(ttl=ttl)
    with pytest.raises(InputError, match="prefix is ''"):
        RedisTier(prefix="")
    with pytest.raises(InputError, match="shared is 'redis://x'; expected a RedisTier"):
        ContextMemoryManager(shared="redis://x")
    assert RedisTier(shared_server().url).fits(2**20)


def test_a_cluster(tmp_path):
    import redis

    port = free_port()
    options = ("--port", str(port), "--cluster-enabled", "yes")
    server = Server(tmp_path / "redis", *options, persistent=False)
    try:
        client(server).execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        for _ in range(500):
            if client(server).cluster("info")["cluster_state"] == "ok":
                break
            time.sleep(0.02)
        state = np.random.default_rng(0).bytes(3_000_000)
        clients = (redis.RedisCluster(host="127.0.0.1", port=port), redis.Redis(port=port))
        one, other = (
            ContextMemoryManager(2**24, vocab_size=500, shared=RedisTier(client=each))
            for each in clients
        )
        assert one.add_context("a", range(300), state=state)
        assert other.get_context("a").tolist() == list(range(300))
        assert bytes(other.get_state("a")) == state
        assert other.remove_context("a")
        assert one.get_context("a") is None
        assert one._remote.tier.failures == one._remote.tier.refusals == 0
    finally:
        server.stop()
