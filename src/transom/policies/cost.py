"""What a policy costs on a given model: bytes of keys and values, and attention FLOPs. Exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transom.errors import UnsupportedModelError
from transom.policies.base import Policy

__all__ = ["ModelShape", "attention_flops", "kv_bytes", "kv_bytes_bound"]

PINNED_KEY_BYTES = 4  # pinned keys are also kept once in float32, to be turned from there


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide the cost of a model's attention.

    `layers` counts the layers a policy applies to: those with full attention. `itemsize` is the
    bytes per stored number, 4 for float32 and 2 for bfloat16.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    itemsize: int = 4

    @classmethod
    def from_config(cls, config: Any, itemsize: int = 4) -> ModelShape:
        """Read the sizes from a transformers model config (or any object with those attributes).

        Raises:
            UnsupportedModelError: when the config does not state them.
        """
        try:
            heads = config.num_attention_heads
            layers = config.num_hidden_layers
            head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{type(config).__name__} does not state its attention sizes ({error}); expected "
                "num_hidden_layers, num_attention_heads and hidden_size or head_dim."
            ) from None
        kinds = getattr(config, "layer_types", None)
        full = layers if kinds is None else kinds.count("full_attention")
        return cls(
            layers=full or layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=head_dim,
            itemsize=itemsize,
        )

    @property
    def token_bytes(self) -> int:
        """Bytes that one token's keys and values take, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.itemsize


def kv_bytes(policy: Policy, shape: ModelShape, seen: int, batch: int = 1) -> int:
    """Bytes of the keys and values that are kept once `seen` tokens have been seen.

    >>> from transom.policies import Window
    >>> kv_bytes(Window(1024), ModelShape(layers=30, heads=9, kv_heads=3, head_dim=64), 50_000)
    47185920
    """
    return batch * (policy.kept(seen) * shape.token_bytes + _pinned_bytes(policy, shape))


def kv_bytes_bound(policy: Policy, shape: ModelShape, batch: int = 1) -> int | None:
    """The most bytes of keys and values the policy ever holds; None when it has no bound.

    A bounded cache allocates exactly this at its first token and never more.
    """
    if policy.capacity is None:
        return None
    return batch * (policy.capacity * shape.token_bytes + _pinned_bytes(policy, shape))


def attention_flops(policy: Policy, shape: ModelShape, stop: int, start: int = 0) -> int:
    """Floating-point operations of attention for the queries at positions `start` to `stop`.

    Counts what the mask lets through: per visible pair, head and layer, `head_dim` multiplications
    and additions for the score, and as many again for the weighted sum.

    >>> from transom.policies import Full
    >>> attention_flops(Full(), ModelShape(layers=1, heads=1, kv_heads=1, head_dim=1), 4)
    40
    """
    queries = np.arange(start, max(start, stop), dtype=np.int64)
    if policy.capacity is None:
        pairs = int((queries + 1).sum())
    else:
        pairs = int((queries + 1 - policy.gap(queries)).sum())
    return 4 * pairs * shape.layers * shape.heads * shape.head_dim


def _pinned_bytes(policy: Policy, shape: ModelShape) -> int:
    return policy.pinned * shape.layers * shape.kv_heads * shape.head_dim * PINNED_KEY_BYTES
