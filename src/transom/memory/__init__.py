"""Many contexts under one budget of bytes; needs no torch."""

from transom.memory.manager import ContextMemoryManager
from transom.memory.pins import Pin
from transom.memory.stats import ContextInfo, Stats, TierStats, Verified
from transom.memory.tiers.redis import RedisTier

__all__ = [
    "ContextInfo",
    "ContextMemoryManager",
    "Pin",
    "RedisTier",
    "Stats",
    "TierStats",
    "Verified",
]
