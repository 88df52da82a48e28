"""The second tier: a folder that several processes may use at once, and that outlives them."""

from transom.memory.tiers.disk.tier import DiskTier

__all__ = ["DiskTier"]
