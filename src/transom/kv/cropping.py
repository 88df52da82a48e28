"""Removing the newest tokens from a cache, where that leaves it as if they had never come."""

from __future__ import annotations

from collections.abc import Sequence

from transom.kv.cache_layer import CacheLayer
from transom.kv.native_layers import NativeLayer, can_crop_native
from transom.kv.planner import AnyPlanner
from transom.kv.self_attending_layer import SelfAttendingLayer

__all__ = ["crop_obstacle", "go_back"]

Layers = Sequence[CacheLayer | NativeLayer]


def crop_obstacle(layers: Layers, planner: AnyPlanner, tokens: int) -> str | None:
    """Why the newest `tokens` columns, padding included, cannot be removed; None if they can."""
    if tokens == 0:
        return None
    if (reason := planner.crop_obstacle(tokens)) is not None:
        return reason
    attending = [layer for layer in layers if isinstance(layer, SelfAttendingLayer)]
    for length, removed in zip(planner.lengths, planner.newest(tokens), strict=True):
        if removed and not all(layer.can_crop(length, removed) for layer in attending):
            return planner.trace(length) or (
                "they had a say in what is kept of others; use a policy by position that is "
                "large enough, or 'full'"
            )
    for layer in layers:
        if not isinstance(layer, CacheLayer) and not can_crop_native(layer, tokens):
            return (
                f"the model's own {type(layer).__name__} no longer has what was before them; "
                "fork before what may have to be taken back, or call activate_past_recording() "
                "before it is fed"
            )
    return None


def go_back(layers: Layers, planner: AnyPlanner, seen: int, base: int) -> bool:
    """Undo what was fed since the planner had `seen` and `base`, half a pass included.

    Returns:
        Whether that could be done exactly. If not, nothing is changed.
    """
    plan, stopped = planner.plan, (planner.seen, planner.lengths, planner.real)
    native = any(not isinstance(layer, CacheLayer) for layer in layers)
    if plan is not None and (plan.started or native):
        # Layers that the pass has not reached yet hold less, which cropping cannot harm.
        planner.commit()
    tokens = planner.seen - seen
    exact = base == planner.base and (tokens == 0 or not native)
    exact = exact and crop_obstacle(layers, planner, tokens) is None
    if exact:
        planner.plan = None
        planner.crop(tokens)
    else:
        planner.plan, (planner.seen, planner.lengths, planner.real) = plan, stopped
    return exact
