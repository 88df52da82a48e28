"""Tiers of every kind, opened in the same way."""

from __future__ import annotations

import atexit
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.helpers.redis_server import Server
from transom.memory.byte_budget import ByteBudget
from transom.memory.tiers import RamTier, Tier
from transom.memory.tiers.disk import DiskTier
from transom.memory.tiers.redis import RedisTier

KINDS = ("ram", "disk", "redis")

NUMBERS = count()


@cache
def shared_server() -> Server:
    """One server for all tests that do not stop or fill it."""
    server = Server(Path(mkdtemp()))
    atexit.register(server.stop)
    return server


class Opened:
    """A tier that can be closed and opened again."""

    def __init__(self, kind: str, folder: Path | None, capacity: int) -> None:
        self.kind = kind
        self.folder = folder
        self.capacity = capacity
        self.prefix = f"test-{next(NUMBERS)}"

    def _open(self) -> Tier:
        if self.kind == "ram":
            return RamTier(ByteBudget(self.capacity))
        assert self.folder is not None
        if self.kind == "redis":
            return RedisTier(shared_server().url, self.capacity, prefix=self.prefix)
        return DiskTier(self.folder / "store", self.capacity)

    def __enter__(self) -> Any:
        self.tier: Any = self._open()
        return self

    def again(self) -> Any:
        self.tier.close()
        self.tier = self._open()
        return self.tier

    def check(self) -> None:
        """Assert that the counts of the tier are right."""
        if self.kind == "ram":
            assert self.tier.used == self.tier.budget.bytes
        if self.kind == "redis":
            assert self.tier.failures == 0
        if self.kind == "disk":
            assert self.tier.used == on_disk(self.tier.path)

    def __exit__(self, *error: object) -> None:
        self.tier.close()


def on_disk(folder: Path) -> int:
    """Bytes that the file system has set aside for the files in a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
