"""Layers that recall old blocks from a cold store."""

from transom.kv.recall.cold import Cold
from transom.kv.recall.layer import RecallLayer

__all__ = ["Cold", "RecallLayer"]
