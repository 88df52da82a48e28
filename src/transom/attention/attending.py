"""What may stand in place of a mask: an object that computes the attention of a forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from transom.attention.correction import Correction
from transom.attention.score_rule import ScoreRule
from transom.errors import CacheError

__all__ = ["Attending", "left_out"]


class Attending(ABC):
    """Computes attention for every layer of one forward pass.

    Attributes:
        correction: of queries and keys, before they come here; None where they are right.
    """

    correction: Correction | None = None

    ndim = 4  # of the mask in whose place it stands; transformers asks a mask that it is given

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """Of the queries in the text, `(batch or 1, q_len)` int64; of padding, any from 0 up."""

    @abstractmethod
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule | None = None, layer: int = 0
    ) -> Tensor:
        """Attention output, `(batch, heads, q_len, value_dim)` in the dtype of `q`.

        Args:
            q: `(batch, heads, q_len, head_dim)`, rotated.
            k: `(batch, kv_heads, kv_len, head_dim)`, what the layer's `update` gave out.
            v: `(batch, kv_heads, kv_len, value_dim)`, likewise.
            rule: how scores become weights; by default they are scaled by `head_dim ** -0.5`.
            layer: the layer's index.
        """


def left_out(layer: int) -> CacheError:
    """The error for a layer that attends although it gave the cache no keys."""
    return CacheError(
        f"layer {layer} attends without the cache that the model was given, as layers do under "
        "gradient checkpointing. Call model.gradient_checkpointing_disable(), or train without a "
        "cache: use_pattern(model, policy) lets queries see the same."
    )
