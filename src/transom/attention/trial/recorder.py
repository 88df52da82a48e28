"""The notes taken while a model runs: the keys that it caches, and how it attends to them."""

from __future__ import annotations

from contextvars import ContextVar

import torch
from torch import Tensor

from transom.attention.trial.records import Call, TrialLayer

__all__ = ["Recorder", "recording"]


class Recorder:
    """Notes of one forward pass.

    Attributes:
        layers: what happened in each layer of the cache, by its index.
        strays: the model attended to keys that are in no layer of the cache.
        queries: `(tokens, heads, head_dim)` float32, those of the last call, by the layer that has
            the keys.
    """

    def __init__(self) -> None:
        self.layers: dict[int, TrialLayer] = {}
        self.strays = False
        self.queries: dict[int, Tensor] = {}
        self._masks: list[Tensor] = []
        self._cached: dict[int, Tensor] = {}  # the keys themselves, by layer
        self._values: dict[int, Tensor] = {}

    def note_cached(self, keys: Tensor, values: Tensor, index: int) -> None:
        """A layer gave these keys and values, `(batch, kv_heads, tokens, dim)`, to the cache."""
        layer = self.layers.setdefault(index, TrialLayer())
        layer.updates += 1
        layer.keys = _by_token(keys)
        layer.sizes = (keys.shape[1], keys.shape[3], values.shape[3])
        self._cached[index] = keys
        self._values[index] = values

    def note_mask(self, mask: Tensor) -> None:
        """The model got this mask; ones where tokens may see later ones, else zeros."""
        self._masks.append(mask)

    def note_call(
        self,
        index: int | None,
        queries: Tensor,
        keys: Tensor,
        mask: object,
        given: frozenset[str],
        known: bool,
    ) -> None:
        """The module of layer `index` called the attention function; see `Call`."""
        owner = next((at for at, cached in self._cached.items() if cached is keys), index)
        if owner is None or owner not in self.layers:
            self.strays = True
            return
        self.queries[owner] = _by_token(queries)
        cached, values, layer = self._cached[owner], self._values[owner], self.layers[owner]
        repeated = keys is cached or _repeats(keys, cached)
        latent = not repeated and _made_of(keys, cached, values)
        if latent:
            layer.keys, layer.query_start = _by_token(values), keys.shape[3] - values.shape[3]
        call = Call(
            layer=index,
            same=keys is cached,
            repeated=repeated,
            latent=latent,
            own_mask=not any(_is_of(mask, made) for made in self._masks),
            ahead=any(_is_of(mask, made) and bool((made > 0).any()) for made in self._masks),
            given=given,
            known=known,
        )
        layer.calls.append(call)


recording: ContextVar[Recorder] = ContextVar("transom-trial")


def _repeats(keys: Tensor, cached: Tensor) -> bool:
    """Whether every head of `keys` is one of `cached`."""
    if keys.shape[2:] != cached.shape[2:]:
        return False
    alike = (keys[:, :, None] == cached[:, None]).flatten(3).all(-1)
    return bool(alike.any(2).all())


def _is_of(mask: object, made: Tensor) -> bool:
    """Whether a mask is the one that was made, or a part of it."""
    if not isinstance(mask, Tensor):
        return False
    return mask is made or mask.untyped_storage().data_ptr() == made.untyped_storage().data_ptr()


def _made_of(keys: Tensor, latents: Tensor, rotated: Tensor) -> bool:
    """Whether keys are made of latents without a position, with the rotated part behind each."""
    start = keys.shape[3] - rotated.shape[3]
    if start <= 0 or keys.shape[2] != latents.shape[2] or rotated.shape[1] != 1:
        return False
    behind = torch.equal(keys[..., start:], rotated.expand(-1, keys.shape[1], -1, -1))
    return behind and _everywhere_the_same(latents) and _everywhere_the_same(keys[..., :start])


def _everywhere_the_same(states: Tensor) -> bool:
    """Whether one token has the same states at every position."""
    by_token = _by_token(states)
    return torch.allclose(by_token, by_token[:1], rtol=0, atol=1e-4 * float(by_token.abs().max()))


def _by_token(states: Tensor) -> Tensor:
    """`(batch, heads, tokens, dim)` as `(batch * tokens, heads, dim)` float32."""
    return states.float().transpose(1, 2).flatten(0, 1)
