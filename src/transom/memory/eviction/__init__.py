"""Eviction policies: in which order entries leave a full tier. One policy per file."""

from transom.memory.eviction.arc import ARC
from transom.memory.eviction.base import Eviction, MayGo, Newcomer
from transom.memory.eviction.greedy_dual import GreedyDual
from transom.memory.eviction.lfu_da import LFUDA
from transom.memory.eviction.lru import LRU
from transom.memory.eviction.registry import eviction, known
from transom.memory.eviction.reuse_odds import ReuseOdds
from transom.memory.eviction.s3_fifo import S3FIFO
from transom.memory.eviction.sieve import Sieve
from transom.memory.eviction.w_tinylfu import WTinyLFU

__all__ = [
    "ARC",
    "LFUDA",
    "LRU",
    "S3FIFO",
    "Eviction",
    "GreedyDual",
    "MayGo",
    "Newcomer",
    "ReuseOdds",
    "Sieve",
    "WTinyLFU",
    "eviction",
    "known",
]
