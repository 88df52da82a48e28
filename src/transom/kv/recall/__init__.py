"""Layers that recall old blocks from a cold store."""

from transom.kv.recall.block_store import BlockStore
from transom.kv.recall.layer import RecallLayer

__all__ = ["BlockStore", "RecallLayer"]
