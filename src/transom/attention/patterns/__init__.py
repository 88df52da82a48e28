"""Attention patterns: functions of positions that combine with `&`, `|` and `~`."""

from __future__ import annotations

from transom.attention.patterns.base import Pattern
from transom.attention.patterns.chosen import global_tokens, random_blocks
from transom.attention.patterns.from_policy import of_policy as pattern
from transom.attention.patterns.heads import head_groups
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.attention.patterns.mask_mod import from_mask_mod
from transom.attention.patterns.positional import (
    Dilated,
    causal,
    chunked,
    dilated,
    everything,
    prefix_lm,
    sinks,
    sliding,
)
from transom.attention.patterns.rows import documents, padding
from transom.attention.patterns.text import parse_pattern

__all__ = [
    "Dilated",
    "Grid",
    "Pattern",
    "Tiles",
    "causal",
    "chunked",
    "dilated",
    "documents",
    "everything",
    "from_mask_mod",
    "global_tokens",
    "head_groups",
    "padding",
    "parse_pattern",
    "pattern",
    "prefix_lm",
    "random_blocks",
    "sinks",
    "sliding",
]
