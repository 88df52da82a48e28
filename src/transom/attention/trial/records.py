"""What a trial tells about a model: its layers, and how they called the attention function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PretrainedConfig

__all__ = ["MIDDLE", "NEAR", "Call", "ModelTrial", "TrialLayer"]

NEAR = (0, 1, 2, 5, 11, 23)  # the positions at which keys are compared
MIDDLE = 250  # a larger one, at which float32 angles are still accurate


@dataclass(frozen=True)
class Call:
    """One call of transformers' attention function.

    Attributes:
        layer: the index that the attention module gives itself; None if it has none.
        same: the keys are the very tensor that the cache gave out.
        repeated: each head of the keys is a head that the cache gave out.
        latent: the keys are made of latents in the cache; see `TrialLayer.latent`.
        own_mask: the mask is not the one that transformers made for this pass.
        ahead: tokens may see later ones.
        given: names of the further arguments that were not None, such as `softcap`.
        known: the model's own eager attention follows the score rule in its arguments and does no
            more; true if it has none.
    """

    layer: int | None
    same: bool
    repeated: bool
    latent: bool
    own_mask: bool
    ahead: bool
    given: frozenset[str]
    known: bool


@dataclass(eq=False)
class TrialLayer:
    """What happened in one layer of the cache.

    Attributes:
        updates: how often the cache was given keys in one pass.
        keys: `(positions, kv_heads, head_dim)` float32, the key of one token at each of `NEAR`. Of
            a latent layer the part that is rotated, which the cache gets as the value.
        sizes: kv heads, and dimensions of a key and of a value, as the cache gets them.
        query_start: the first dimension of a query that belongs to these keys.
        far: the same keys in a pass that also has a token far beyond the trained length, with a
            cache that says it is as long; None where the model has no such positions.
        middle: `(kv_heads, head_dim)` float32, the key of the same token at `MIDDLE`, or None.
        queries: `(positions, heads, head_dim)` float32, the query of that token at each of `NEAR`.
        steady: queries do not change with the length of the cache, but for their size. Where keys
            do, only the query at position 0 is compared, which is not rotated.
        level: queries and keys have the same norm at every position and length of the cache.
        calls: of the attention function with this layer's keys, in the order of the model.
    """

    updates: int = 0
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    far: Tensor | None = None
    middle: Tensor | None = None
    queries: Tensor | None = None
    steady: bool = True
    level: bool = True
    sizes: tuple[int, int, int] = (0, 0, 0)
    query_start: int = 0
    calls: list[Call] = field(default_factory=list)

    @property
    def latent(self) -> bool:
        """Whether the layer caches latents: `(latent, rotated part)` in place of key and value.

        All heads share them. The model makes keys and values of the latents, which have no
        position, and puts the rotated part behind each key: multi-head latent attention.

        Source: DeepSeek-V2, https://arxiv.org/abs/2405.04434.
        """
        return bool(self.calls) and all(call.latent for call in self.calls)

    @property
    def depends_on_length(self) -> bool:
        """Whether the keys at `NEAR` are others where a token far away is in the same pass."""
        if self.far is None or self.far.shape != self.keys.shape:
            return False
        return float((self.far - self.keys).abs().max()) > 1e-4 * float(self.keys.abs().max())


@dataclass(eq=False)
class ModelTrial:
    """What a model did.

    Attributes:
        config: a copy of the model's.
        layers: by their index in the cache.
        frequencies: every 1-D floating-point tensor in the model that is no weight, float64. Those
            by which the model rotates its keys are among them.
        longest: the largest position that it was given.
        strays: the model attended to keys that are in no layer of the cache.
        several_axes: positions may have several axes, as those of image tokens do in M-RoPE.
        failure: why the model could not be run; None if it could.
    """

    config: PretrainedConfig
    layers: dict[int, TrialLayer] = field(default_factory=dict)
    frequencies: list[Tensor] = field(default_factory=list)
    longest: int = 0
    strays: bool = False
    several_axes: bool = False
    failure: str | None = None

    def owners(self, layers: Iterable[int]) -> dict[int, int]:
        """For each layer that attends to the keys of another one of these, which one that is."""
        return {
            call.layer: index
            for index in layers
            for call in self.layers[index].calls
            if call.layer is not None and call.layer not in self.layers
        }
