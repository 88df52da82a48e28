"""Layers of latent attention: what they cache is a latent and one rotated part of a key."""

from __future__ import annotations

from torch import Tensor

from transom.kv.bounded_layer import BoundedLayer
from transom.kv.quantized_layer import QuantizedLayer

__all__ = ["LatentLayer", "QuantizedLatentLayer"]


class LatentRoles(BoundedLayer):
    """Stores the rotated part as the key, because it is what depends on the position.

    The model gives the cache `(latent, rotated part)`, `(batch, 1, tokens, dim)` each, in place of
    key and value, and makes keys and values of all heads of what it gets back. So the layer holds
    the rotated parts as `keys` and the latents as `values`.

    Source: DeepSeek-V2, https://arxiv.org/abs/2405.04434.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new latents and rotated parts; return all that the new queries may see."""
        rotated, latents = super().update(value_states, key_states, *args, **kwargs)
        return latents, rotated


class LatentLayer(LatentRoles):
    """Latents and rotated parts of the tokens that a policy keeps."""


class QuantizedLatentLayer(LatentRoles, QuantizedLayer):
    """The same, all but the newest tokens in few bits."""
