"""One of several processes that use a store; run as `python -m tests.helpers.store_worker`.

Every context says in its tokens which id and version it is, and all others follow from these, so
that whatever is read can be checked. Who writes an id notes in a file, before and after, which
version it has; nobody may read an older one than was noted before the reading began.
"""

from __future__ import annotations

import mmap
import random
import struct
import sys
import time
from pathlib import Path

import numpy as np

from transom.memory import ContextMemoryManager

IDS = 24
VOCABULARY = 50_000


def tokens(number: int, version: int) -> np.ndarray:
    """The tokens of one version: of three beginnings, one, then which it is, then its own."""
    begin = np.full(64 * (number % 3), 7 + number % 3)
    own = np.random.default_rng((number, version)).integers(0, VOCABULARY, 20 + version * 37 % 3000)
    return np.concatenate([begin, [number, version // VOCABULARY, version % VOCABULARY], own])


def version_of(number: int, ids: np.ndarray) -> int:
    """Which version `ids` are; raises AssertionError when they are not one."""
    at = 64 * (number % 3)
    found, high, low = (int(x) for x in ids[at : at + 3])
    assert found == number, (found, number)
    version = high * VOCABULARY + low
    np.testing.assert_array_equal(ids, tokens(number, version))
    return version


class Board:
    """Versions by id that were begun and done, shared by all."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16 * IDS))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def note(self, number: int, begun: int | None = None, done: int | None = None) -> None:
        if begun is not None:
            struct.pack_into("<Q", self._map, 16 * number, begun)
        if done is not None:
            struct.pack_into("<Q", self._map, 16 * number + 8, done)

    def begun(self, number: int) -> int:
        return int(struct.unpack_from("<Q", self._map, 16 * number)[0])

    def done(self, number: int) -> int:
        return int(struct.unpack_from("<Q", self._map, 16 * number + 8)[0])


def opened(folder: Path, **settings) -> ContextMemoryManager:
    return ContextMemoryManager(
        **{
            "max_memory": 300_000,
            "disk": folder / "store",
            "max_disk": 800_000,
            "vocab_size": VOCABULARY,
            "block_size": 64,
            **settings,
        }
    )


def write(
    manager: ContextMemoryManager, board: Board, mine: list[int], random_: random.Random
) -> None:
    number = random_.choice(mine)
    version = board.begun(number) + 1
    board.note(number, begun=version)
    if random_.random() < 0.15:
        # What is gone must stay gone: as if a version without tokens was written.
        manager.remove_context(str(number))
        board.note(number, done=version)
        return
    manager.add_context(str(number), tokens(number, version))
    board.note(number, done=version)
    if random_.random() < 0.3:
        manager.add_state(str(number), np.full(random_.randint(0, 40_000), version % 251, np.uint8))


def read(manager: ContextMemoryManager, board: Board, random_: random.Random) -> bool:
    number = random_.randrange(IDS)
    least = board.done(number)
    ids = manager.get_context(str(number))
    if ids is None:
        return False
    version = version_of(number, ids)
    assert least <= version <= board.begun(number), (number, least, version, board.begun(number))
    state = manager.get_state(str(number))
    if state is not None and len(state):
        assert (state == state[0]).all()
    found = manager.longest_prefix(ids)
    assert found is None or 0 < found[1] <= len(ids)
    return True


def main() -> None:
    role, folder, which, seconds, capacity = sys.argv[1:6]
    random_ = random.Random(int(which))
    board = Board(Path(folder) / "board")
    mine = [n for n in range(IDS) if n % 4 == int(which) % 4]
    done = hits = 0
    end = time.monotonic() + float(seconds)
    with opened(Path(folder), max_disk=int(capacity)) as manager:
        print("ready", flush=True)
        while time.monotonic() < end:
            done += 1
            if role == "write":
                write(manager, board, mine, random_)
            elif role == "read":
                hits += read(manager, board, random_)
            else:
                manager.evict(random_.randint(0, 6_000))
                time.sleep(0.02)
        problems = manager.verify().problems
        assert not problems, problems
        stats = manager.stats()
        assert all(tier.peak <= tier.capacity for tier in stats.tiers), stats
        assert sum(tier.corrupt for tier in stats.tiers) == 0, stats
    print(f"{role} {done} {hits}")


if __name__ == "__main__":
    main()
