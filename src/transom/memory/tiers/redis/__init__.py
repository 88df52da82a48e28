"""The tier that machines share: a server that speaks the protocol of Redis."""

from transom.memory.tiers.redis.tier import CHUNK, RedisTier

__all__ = ["CHUNK", "RedisTier"]
