"""`OptimizedAttention`, an attention layer for models of one's own."""

from transom.attention.optimized.module import OptimizedAttention

__all__ = ["OptimizedAttention"]
