"""The sizes of a model that decide what its attention costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transom.errors import UnsupportedModelError
from transom.validation import known_keywords

__all__ = ["ModelShape"]


@known_keywords
@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide the cost of a model's attention.

    `layers` counts the layers that a policy applies to: those with full attention. `itemsize` is
    the bytes of a stored number, 4 for float32 and 2 for bfloat16. `head_dim` is the dimensions of
    a key as it is stored, `value_dim` those of a value, by default as many. Latent attention stores
    one "head": the rotated part of a key in place of the key, and a latent in place of the value.
    `pair_dims` is how many numbers are multiplied for a query and a key that it sees, in one head:
    those of the key and of the value.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    itemsize: int = 4
    value_dim: int | None = None
    pair_dims: int | None = None

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
        if getattr(config, "kv_lora_rank", None) and getattr(config, "qk_rope_head_dim", None):
            return cls(
                layers=full or layers,
                heads=heads,
                kv_heads=1,
                head_dim=config.qk_rope_head_dim,
                itemsize=itemsize,
                value_dim=config.kv_lora_rank,
                pair_dims=config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim,
            )
        return cls(
            layers=full or layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=head_dim,
            itemsize=itemsize,
        )

    @property
    def head_bytes(self) -> int:
        """Bytes that one token's key and value take in one kv head of one layer."""
        return sum(self.dims) * self.itemsize

    @property
    def dims(self) -> tuple[int, int]:
        """Dimensions of a key and of a value as they are stored."""
        return self.head_dim, self.head_dim if self.value_dim is None else self.value_dim

    @property
    def token_bytes(self) -> int:
        """Bytes that one token's keys and values take, over all layers."""
        return self.layers * self.kv_heads * self.head_bytes
