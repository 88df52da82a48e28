"""Where payloads are: memory, disk, a server that machines share; each of them a mapping."""

from transom.memory.tiers.base import News, Payload, Tier
from transom.memory.tiers.ram import RamTier

__all__ = ["News", "Payload", "RamTier", "Tier"]
