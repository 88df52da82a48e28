"""What a policy costs on a given model: bytes of keys and values, and attention FLOPs. Exact.

Each policy computes the bytes of one layer (`Policy.layer_bytes`) and the visible pairs of tokens
(`Policy.visible_pairs`); the functions here add them up over a model.
"""

from __future__ import annotations

from transom.policies.base import Policy
from transom.policies.shape import ModelShape
from transom.validation import known_keywords

__all__ = ["ModelShape", "attention_flops", "kv_bytes", "kv_bytes_bound"]


@known_keywords
def kv_bytes(policy: Policy, shape: ModelShape, seen: int, batch: int = 1) -> int:
    """Bytes of the keys and values that are kept after `seen` tokens.

    >>> from transom.policies import Window
    >>> kv_bytes(Window(1024), ModelShape(layers=30, heads=9, kv_heads=3, head_dim=64), 50_000)
    47185920
    """
    layers = policy.on(shape).by_layer(shape.layers)
    return batch * sum(_bytes(one, shape, one.kept(seen)) for one in layers)


@known_keywords
def kv_bytes_bound(policy: Policy, shape: ModelShape, batch: int = 1) -> int | None:
    """The most bytes of keys and values the policy ever holds; None when it has no bound.

    A bounded cache allocates exactly this at its first token and never more.

    >>> from transom.policies import parse
    >>> shape = ModelShape(layers=30, heads=9, kv_heads=3, head_dim=64)
    >>> [kv_bytes_bound(parse(f"window:1024,kv={kv}"), shape) for kv in ("auto", "int8", "int4")]
    [47185920, 15713280, 10552320]
    """
    policy = policy.on(shape)
    if policy.capacity is None:
        return None
    layers = policy.by_layer(shape.layers)
    return batch * sum(_bytes(one, shape, one.capacity or 0) for one in layers)


@known_keywords
def attention_flops(policy: Policy, shape: ModelShape, stop: int, start: int = 0) -> int:
    """Floating-point operations of attention for the queries at positions `start` to `stop`.

    Each visible pair costs, in every head and layer, a multiplication and an addition for each
    dimension of the key, and as many for each dimension of the value. Under recall, the count
    supposes that every query sees as many recalled blocks as it may.

    >>> from transom.policies import Full
    >>> attention_flops(Full(), ModelShape(layers=1, heads=1, kv_heads=1, head_dim=1), 4)
    40
    """
    pairs = policy.on(shape).visible_pairs(start, stop)
    dims = sum(shape.dims) if shape.pair_dims is None else shape.pair_dims
    return 2 * pairs * shape.layers * shape.heads * dims


def _bytes(policy: Policy, shape: ModelShape, tokens: int) -> int:
    """Bytes of one layer, which allocates nothing before its first token."""
    return policy.layer_bytes(shape, tokens) if tokens else 0
