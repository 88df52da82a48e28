"""Managers of every shape, opened in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transom.memory.manager import ContextMemoryManager
from transom.memory.stats import Stats

SHAPES = {
    "roomy": {"max_memory": 2**24},
    "tight": {"max_memory": 150_000},
}


class Managed:
    """A manager, and the same one again after it was closed."""

    def __init__(self, shape: str, eviction: str, folder: Path) -> None:
        self.roomy = "roomy" in shape
        self.evicted = False
        self.settings: dict[str, Any] = SHAPES[shape] | {
            "eviction": eviction,
            "vocab_size": 50_000,
            "block_size": 64,
        }
        self.durable = False

    def open(self) -> ContextMemoryManager:
        self.manager = ContextMemoryManager(**self.settings)
        return self.manager

    def again(self) -> ContextMemoryManager:
        self.manager.close()
        return self.open()

    def close(self) -> None:
        self.manager.close()

    def expect(self, found: bool, known: bool) -> None:
        """Where there is room for everything, nothing may be missing."""
        if self.roomy and not self.evicted:
            assert found == known

    def check(self, stats: Stats) -> None:
        """What is counted is what there is."""
