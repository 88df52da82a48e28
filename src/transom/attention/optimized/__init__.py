"""`OptimizedAttention`, an attention layer for your own models."""

from transom.attention.optimized.module import OptimizedAttention

__all__ = ["OptimizedAttention"]
