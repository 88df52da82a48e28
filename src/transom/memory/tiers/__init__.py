"""Where payloads are: memory, disk, a server that machines share; each of them a mapping."""

from transom.memory.tiers.base import Payload, Tier, TierEvent
from transom.memory.tiers.ram import RamTier

__all__ = ["Payload", "RamTier", "Tier", "TierEvent"]
