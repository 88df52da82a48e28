"""What a model is given in a trial: a cache, a mask and an attention function that take notes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from transom.attention.attention_module import eager_attention_of, layer_index_of
from transom.attention.kernels.explicit import KeyPart, explicit
from transom.attention.score_rule import ScoreRule
from transom.attention.trial.recorder import recording

__all__ = ["NAME", "RecordingCache", "register"]

NAME = "transom-trial"
# Standard deviations of the queries and keys that eager attention is tried with. A cap hardly
# changes small scores, and a sink takes hardly any attention from large ones.
SIZES = (4.0, 0.3)


def register() -> None:
    """Make transformers know the mask and the attention function of trials by `NAME`."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


class RecordingCache(DynamicCache):
    """Notes keys and gives them back. Layers without attention store what they always do."""

    length = 0

    def after(self, rows: int, length: int = 0) -> RecordingCache:
        """A copy that claims to have seen `length` tokens, each row with the states of the one row.

        With such states, recurrent layers take one step; without, they would pad a prompt of one.
        """
        twin = copy.deepcopy(self)
        twin.length = length
        first = cast("torch.LongTensor", torch.zeros(rows, dtype=torch.int64))
        for layer in twin.layers:
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                layer.reorder_cache(first)
        return twin

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        recording.get().note_cached(key_states, value_states, layer_idx)
        return key_states, value_states


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object = None,
    **given: Any,
) -> tuple[Tensor, None]:
    names = frozenset(name for name, what in given.items() if what is not None)
    known = _is_known(module, query, key, value, given)
    recording.get().note_call(layer_index_of(module), query, key, attention_mask, names, known)
    # Each token sees itself alone, so that none learns the positions of others.
    own = value[:, :, -query.shape[2] :].repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return own.transpose(1, 2).contiguous(), None


def _is_known(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any]
) -> bool:
    """Whether a model's eager attention follows the rule in its arguments, and does no more."""
    eager = eager_attention_of(module)
    if eager is None:
        return True
    scaling = given.get("scaling")
    rule = ScoreRule.given(query.shape[-1] ** -0.5 if scaling is None else scaling, given)
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        q, k, v = (
            torch.randn(x.shape, generator=generator, dtype=torch.float32)
            for x in (query, key, value)
        )
        q, k = size * q, size * k
        mask = torch.zeros(len(q), 1, q.shape[2], k.shape[2], dtype=torch.float32)
        try:
            found = eager(module, q, k, v, mask, **given)[0]
        except Exception:  # then this function is not what the model runs under "eager" either
            return True
        expected = explicit([KeyPart(q, k, v)], rule).transpose(1, 2)
        if not torch.allclose(found, expected, rtol=0, atol=1e-3):
            return False
    return True


def _mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor | bool],
    **_: object,
) -> Tensor:
    """Zeros; or ones where a token may see a later one, which the recorder notices."""
    ahead = mask_function(*(torch.tensor(at) for at in (0, 0, 0, 1)))
    mask = torch.full((batch_size, 1, q_length, kv_length), float(ahead))
    recording.get().note_mask(mask)
    return mask
