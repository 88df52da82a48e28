"""Who sees whom: patterns, the kernels that compute them, an attention layer, the model glue."""

from transom.attention.dispatch import Explanation, attend
from transom.attention.optimized import OptimizedAttention
from transom.attention.patterns import (
    Pattern,
    causal,
    chunked,
    dilated,
    documents,
    everything,
    from_mask_mod,
    global_tokens,
    head_groups,
    padding,
    parse_pattern,
    pattern,
    prefix_lm,
    random_blocks,
    sinks,
    sliding,
)
from transom.attention.pruning import attend_blocks, choose_blocks, mass_kept

__all__ = [
    "Explanation",
    "OptimizedAttention",
    "Pattern",
    "attend",
    "attend_blocks",
    "causal",
    "choose_blocks",
    "chunked",
    "dilated",
    "documents",
    "everything",
    "from_mask_mod",
    "global_tokens",
    "head_groups",
    "mass_kept",
    "padding",
    "parse_pattern",
    "pattern",
    "prefix_lm",
    "random_blocks",
    "sinks",
    "sliding",
]
