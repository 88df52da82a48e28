"""Attention of one layer over a bounded cache: several calls are equal to one dense pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.attention.attending import Attending
from transom.attention.compiling import uncompiled
from transom.attention.rotary import Rotary
from transom.attention.rotary_by_length import RotaryByLength
from transom.attention.score_rule import ScoreRule
from transom.errors import CacheError

__all__ = ["KeptKeys", "attend_kept", "begin_pass", "check_fits"]


class KeptPlan(Protocol):
    """What attention asks of the plan of a forward pass."""

    @property
    def tokens(self) -> int: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def started(self) -> bool: ...


class KeptPlanner(Protocol):
    """What attention asks of a cache's planner; `transom.kv.planner.PassPlanner` is the base."""

    @property
    def rotary(self) -> Rotary | None: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def layers_without_rope(self) -> frozenset[int]: ...

    @property
    def own(self) -> RotaryByLength | None: ...

    @property
    def plan(self) -> KeptPlan | None: ...

    def visible(self, plan: Any) -> Tensor | Attending | None:  # each planner has its own plans
        ...


class KeptKeys(Protocol):
    """What attention asks of a cache; `transom.kv.BoundedCache` is one."""

    @property
    def layers(self) -> Sequence[object]: ...

    @property
    def planner(self) -> KeptPlanner: ...

    @property
    def seen(self) -> int: ...

    @property
    def next_position(self) -> int: ...

    def begin(
        self, tokens: int, batch: int, attention_mask: Tensor | None, device: torch.device
    ) -> Tensor | Attending | None: ...

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]: ...


def check_fits(cache: KeptKeys, layer: int, head_dim: int, rotary: Rotary | None) -> None:
    """Check that the cache rotates this layer's keys as the layer itself does.

    Raises:
        CacheError: if the cache does not bound this layer, or was made for another head_dim or
            other rotary positions.
    """
    bounded = _bounded(cache)
    if layer not in bounded:
        raise CacheError(
            f"layer_idx is {layer}; the cache's policy applies to the layers {bounded}. Pass the "
            "layer's own index, and a cache whose config has enough layers."
        )
    planner = cache.planner
    if planner.rotary is None or layer in planner.layers_without_rope:
        return
    if planner.head_dim != head_dim:
        raise CacheError(
            f"the cache was made for heads of {planner.head_dim} dimensions and the layer has "
            f"{head_dim}; make it with a config of the same head_dim."
        )
    if planner.own is not None or rotary is None or not _alike(rotary, planner.rotary):
        raise CacheError(
            "the cache rotates keys differently from the layer; expected the same rotary "
            "positions: OptimizedAttention(..., rotary=Rotary.from_config(config)) with the "
            "config that the cache was made with."
        )


@uncompiled  # a plan depends on numbers that a graph would fix
def begin_pass(cache: KeptKeys, layer: int, x: Tensor, mask: Tensor | None) -> Tensor:
    """Plan a forward pass, or, at other layers than the first, find its plan; mutates the cache.

    Args:
        x: `(batch, tokens, hidden)`, the new tokens.
        mask: `(batch, seen + tokens)` bool, true for real tokens; None if all are real. Only the
            mask of the first layer counts.

    Returns:
        The positions of the new tokens, `(batch or 1, tokens)` int64; padding does not count.

    Raises:
        CacheError: if layers are called out of order, or the pass before this one did not end.
    """
    batch, tokens = x.shape[:2]
    first = _bounded(cache)[0]
    if layer == first:
        cache.begin(tokens, batch, mask, x.device)
    plan = cache.planner.plan
    if plan is None or plan.tokens != tokens or not (plan.started or layer == first):
        raise CacheError(
            f"layer {layer} was called with {tokens} tokens, and no pass of that many is under "
            f"way; expected the layers {_bounded(cache)} in order, once each for the same tokens."
        )
    visible = cache.planner.visible(plan)
    if isinstance(visible, Attending):
        positions = visible.positions.to(x.device)
    else:
        ends = torch.tensor(plan.lengths, device=x.device)
        positions = (ends[:, None] - 1).clamp(min=0)
    return positions - (cache.seen - cache.next_position)  # `rebase` lowers positions


@uncompiled
def attend_kept(
    q: Tensor, k: Tensor, v: Tensor, *, cache: KeptKeys, layer: int, scale: float
) -> Tensor:
    """Store new keys and values, and attend to everything that the policy keeps.

    Mutates the cache.

    Args:
        q: `(batch, heads, tokens, head_dim)`, rotated.
        k: `(batch, kv_heads, tokens, head_dim)`, the new keys, rotated.
        v: `(batch, kv_heads, tokens, head_dim)`, the new values.

    Returns:
        `(batch, heads, tokens, head_dim)`.
    """
    visible = cache.planner.visible(cache.planner.plan)  # now, because `update` may end the pass
    keys, values = cache.update(k, v, layer)
    if isinstance(visible, Attending):
        return visible.attend(q, keys, values, ScoreRule(scale), layer=layer)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, keys, values, attn_mask=visible, scale=scale, enable_gqa=gqa
    )


def _bounded(cache: KeptKeys) -> list[int]:
    """The layers that the cache's policy applies to."""
    layers = enumerate(cache.layers)
    return [index for index, layer in layers if getattr(layer, "planner", None) is cache.planner]


def _alike(one: Rotary, other: Rotary) -> bool:
    if one.dim != other.dim or one.interleaved != other.interleaved:
        return False
    return torch.allclose(
        one.inv_freq.cpu().double(), other.inv_freq.cpu().double(), rtol=1e-6, atol=0
    )
