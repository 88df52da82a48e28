"""Managers with every kind of tier, opened in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.opened_tiers import on_disk
from transom.memory.manager import ContextMemoryManager
from transom.memory.stats import Stats

SHAPES: dict[str, dict[str, Any]] = {
    "roomy": {"max_memory": 2**24},
    "tight": {"max_memory": 150_000},
    "roomy, disk": {"max_memory": 2**24, "max_disk": 2**24},
    "roomy, back": {"max_memory": 2**24, "max_disk": 2**24, "write": "back"},
    "roomy disk": {"max_memory": 100_000, "max_disk": 2**24},
    "roomy disk, back": {"max_memory": 100_000, "max_disk": 2**24, "write": "back"},
    "tight, disk": {"max_memory": 100_000, "max_disk": 400_000},
    "tight, back": {"max_memory": 100_000, "max_disk": 400_000, "write": "back"},
}


class Managed:
    """A manager that can be closed and opened again."""

    def __init__(self, shape: str, eviction: str, folder: Path) -> None:
        self.roomy = "roomy" in shape
        self.evicted = False
        self.settings: dict[str, Any] = SHAPES[shape] | {
            "eviction": eviction,
            "vocab_size": 50_000,
            "block_size": 64,
        }
        self.durable = "max_disk" in self.settings
        if self.durable:
            self.settings["disk"] = folder / "store"

    def open(self) -> ContextMemoryManager:
        self.manager = ContextMemoryManager(**self.settings)
        return self.manager

    def again(self) -> ContextMemoryManager:
        self.manager.close()
        return self.open()

    def close(self) -> None:
        self.manager.close()

    def expect(self, found: bool, known: bool) -> None:
        """Assert that nothing is missing if there is room for everything."""
        if self.roomy and not self.evicted:
            assert found == known

    def check(self, stats: Stats) -> None:
        """Assert that all counts are right."""
        if self.durable:
            assert stats.disk_bytes == on_disk(self.settings["disk"])
