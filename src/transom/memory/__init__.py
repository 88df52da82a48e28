"""Many contexts under one budget of bytes; needs no torch."""

from transom.memory.manager import ContextMemoryManager
from transom.memory.pins import Pin
from transom.memory.stats import ContextInfo, Stats, TierStats, Verified

__all__ = [
    "ContextInfo",
    "ContextMemoryManager",
    "Pin",
    "Stats",
    "TierStats",
    "Verified",
]
