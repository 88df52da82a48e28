"""The notes taken while a model runs: the keys that it caches, and how it attends to them."""

from __future__ import annotations

from contextvars import ContextVar

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

    def note_keys(self, keys: Tensor, index: int) -> None:
        """A layer gave these keys, `(batch, kv_heads, tokens, head_dim)`, to the cache."""
        layer = self.layers.setdefault(index, TrialLayer())
        layer.updates += 1
        layer.keys = keys.float().transpose(1, 2).flatten(0, 1)
        self._cached[index] = keys

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
        self.queries[owner] = queries.float().transpose(1, 2).flatten(0, 1)
        cached = self._cached[owner]
        call = Call(
            layer=index,
            same=keys is cached,
            repeated=keys is cached or _repeats(keys, cached),
            own_mask=not any(mask is made for made in self._masks),
            ahead=any(mask is made and bool((made > 0).any()) for made in self._masks),
            given=given,
            known=known,
        )
        self.layers[owner].calls.append(call)


recording: ContextVar[Recorder] = ContextVar("transom-trial")


def _repeats(keys: Tensor, cached: Tensor) -> bool:
    """Whether every head of `keys` is one of `cached`."""
    if keys.shape[2:] != cached.shape[2:]:
        return False
    alike = (keys[:, :, None] == cached[:, None]).flatten(3).all(-1)
    return bool(alike.any(2).all())
