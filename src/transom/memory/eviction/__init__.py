"""In which order contexts leave a tier that is full; one policy per file."""

from transom.memory.eviction.base import Eviction, MayGo, Newcomer
from transom.memory.eviction.lru import LRU
from transom.memory.eviction.registry import eviction, known

__all__ = ["LRU", "Eviction", "MayGo", "Newcomer", "eviction", "known"]
