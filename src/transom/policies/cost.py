"""What a policy costs on a given model: bytes of keys and values, and attention FLOPs. Exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transom.checks import known_keywords
from transom.errors import UnsupportedModelError
from transom.policies.base import Policy
from transom.policies.hierarchical import Hierarchical
from transom.policies.positional import Positional
from transom.policies.precision import Precision
from transom.policies.scored import Scored

__all__ = [
    "ModelShape",
    "attention_flops",
    "cold_block_bytes",
    "kv_bytes",
    "kv_bytes_bound",
]

PINNED_KEY_BYTES = 4  # pinned keys are also kept once in float32, to be turned from there
CHANNEL_BYTES = 4  # offset and width of each channel of a head's keys, float32, where rounded
POSITION_BYTES = 4  # int32, for each token that a scored policy holds
NUMBER_BYTES = 8  # int64, for each block that is recalled in a kv head
SUM_BYTES = 4  # float32, for each query of the chunk under way
FINDING_BYTES = 4  # float32: votes for cold blocks, and the keys by which these are found
RECEIVED_BYTES = 4  # float32: attention received, and sums over queries


@known_keywords
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
        kinds = getattr(config, "layer_types", None)
        if getattr(config, "is_heterogeneous", False):  # each layer has sizes of its own
            first = kinds.index("full_attention") if kinds and "full_attention" in kinds else 0
            config = config.per_layer_config[first]
        try:
            heads = config.num_attention_heads
            layers = config.num_hidden_layers
            head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{type(config).__name__} does not state its attention sizes ({error}); expected "
                "num_hidden_layers, num_attention_heads and hidden_size or head_dim."
            ) from None
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


@known_keywords
def kv_bytes(policy: Policy, shape: ModelShape, seen: int, batch: int = 1) -> int:
    """Bytes of the keys and values that are kept once `seen` tokens have been seen.

    >>> from transom.policies import Window
    >>> kv_bytes(Window(1024), ModelShape(layers=30, heads=9, kv_heads=3, head_dim=64), 50_000)
    47185920
    """
    return batch * sum(_bytes(one, shape, one.kept(seen)) for one in _layers(policy, shape))


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
    layers = _layers(policy, shape)
    return batch * sum(_bytes(one, shape, one.capacity or 0) for one in layers)


@known_keywords
def attention_flops(policy: Policy, shape: ModelShape, stop: int, start: int = 0) -> int:
    """Floating-point operations of attention for the queries at positions `start` to `stop`.

    Counts what the mask lets through: per visible pair, head and layer, `head_dim` multiplications
    and additions for the score, and as many again for the weighted sum. With recall, as if all
    blocks that may be recalled were seen.

    >>> from transom.policies import Full
    >>> attention_flops(Full(), ModelShape(layers=1, heads=1, kv_heads=1, head_dim=1), 4)
    40
    """
    policy = policy.on(shape)
    queries = np.arange(start, max(start, stop), dtype=np.int64)
    if isinstance(policy, Scored):
        held = queries + 1
        over = held - policy.tokens - 1
        turning = policy.tokens - policy.round + 1 + over % policy.round
        pairs = int(np.where(over < 0, held, turning).sum())
    elif isinstance(policy, Hierarchical) and policy.recalls:
        newest = policy.block_size - 1 - queries % policy.block_size
        pairs = int(np.minimum(queries + 1, policy.capacity - newest).sum())
    else:
        assert isinstance(policy, Positional)
        pairs = int((queries + 1 - policy.gap(queries)).sum())
    return 4 * pairs * shape.layers * shape.heads * shape.head_dim


def cold_block_bytes(policy: Hierarchical, shape: ModelShape) -> int:
    """Bytes over all layers of a block that can be recalled, and of what it is found by."""
    found_by = policy.representatives_per_block * max(1, shape.head_dim // 2) + 1  # and a vote
    finding = shape.layers * shape.kv_heads * found_by * FINDING_BYTES
    return policy.block_size * shape.token_bytes + finding


def _layers(policy: Policy, shape: ModelShape) -> tuple[Policy, ...]:
    policy = policy.on(shape)
    if isinstance(policy, Scored):
        return policy.by_layer(shape.layers)
    return (policy,) * shape.layers


def _bytes(policy: Policy, shape: ModelShape, tokens: int) -> int:
    """Of one layer that holds so many tokens per kv head."""
    if not tokens:
        return 0
    dim, precision = shape.head_dim, Precision.of(policy)
    exact = 2 * dim * shape.itemsize
    if isinstance(policy, Hierarchical) and policy.recalls:
        head = min(tokens, policy.capacity) * exact + policy.recalled * NUMBER_BYTES
        query = dim * shape.itemsize + SUM_BYTES
        return shape.kv_heads * head + shape.heads * policy.chunk_size * query
    scored = isinstance(policy, Scored)
    if precision is None:
        head = tokens * exact
    else:
        recent = min(tokens, precision.exact)
        # A scored policy holds its newest tokens once; a ring has a place for them in both.
        coded = tokens - recent if scored else tokens
        whole = (recent + precision.first) * exact
        head = coded * 2 * precision.row_bytes(dim) + whole + 2 * dim * CHANNEL_BYTES
    if isinstance(policy, Scored):
        head += tokens * (POSITION_BYTES + (RECEIVED_BYTES if policy.watches != 0 else 0))
    total = shape.kv_heads * (head + policy.pinned * dim * PINNED_KEY_BYTES)
    if isinstance(policy, Scored) and policy.expects:
        total += shape.heads * (dim + dim * dim) * RECEIVED_BYTES
    return total
