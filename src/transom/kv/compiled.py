"""Single-token steps in one graph that `torch.compile` compiles once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from transom.attention.huggingface import follows_pattern
from transom.attention.modes import lasting
from transom.attention.versions import cache_argument
from transom.attention.visibility import Visibility
from transom.errors import UnsupportedModelError
from transom.kv.cache import BoundedCache
from transom.kv.slot_plan import SlotPlan
from transom.kv.slot_planner import SlotPlanner

__all__ = ["CompiledStep"]


class CompiledStep:
    """Feeds one token to a model and a bounded cache, in one compiled graph.

    The slot, the mask and the rotation of the pinned keys change from step to step. They are in
    tensors that keep their shape and address, so the graph of the first step serves every later
    one. Planning stays outside the graph.

    Raises:
        UnsupportedModelError: unless the policy is bounded and applies to every layer; otherwise
            some storage would change its shape. Also when the model's frequencies change.
    """

    @lasting
    def __init__(self, model: Any, cache: BoundedCache) -> None:
        planner = cache.planner
        plain = isinstance(planner, SlotPlanner) and cache.policy.kv == "auto"
        if cache.policy.capacity is None or not cache.is_bounded_throughout or not plain:
            raise UnsupportedModelError(
                f"compile=True needs storage of fixed shape: a bounded policy by position, kept as "
                f"it comes (this is {cache.policy}), on every layer of {model.config.model_type}, "
                "none of which may slide by itself. Leave compile off."
            )
        if planner.own is not None:
            raise UnsupportedModelError(
                f"compile=True needs the same frequencies in every step; those of "
                f"{model.config.model_type} depend on the length of the text "
                f"({planner.own.kind!r} in rope_parameters). Leave compile off."
            )
        assert isinstance(planner, SlotPlanner)
        self._planner = planner
        self._cache = cache
        self._model = model
        self._plan: SlotPlan | None = None
        self._no_rotation = torch.eye(cache.planner.head_dim, dtype=torch.float32, device="cpu")
        given = {cache_argument(model): cache}

        def step(ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask,
                use_cache=True,
                **given,
            ).logits
            return logits

        # torch keeps compiled code per code object. With a code object of its own, this cache does
        # not count as a recompilation for the other contexts in the process.
        step.__code__ = step.__code__.replace()
        self._step = torch.compile(step, fullgraph=True, dynamic=False)

    def __reduce__(self) -> tuple[type[CompiledStep], tuple[Any, BoundedCache]]:
        return type(self), (self._model, self._cache)  # a copy compiles for itself

    @property
    def ready(self) -> bool:
        """Whether all pinned tokens are in; until then, steps must run uncompiled."""
        lengths = self._planner.lengths
        return len(lengths) == 1 and lengths[0] > self._cache.policy.pinned

    @lasting
    def __call__(self, ids: Tensor, position: int) -> Tensor:
        """Feed `(1,)` ids at a position; logits `(1, vocabulary)`. Mutates the cache."""
        if follows_pattern(self._model.config):
            raise UnsupportedModelError(
                "compiled steps do not follow a pattern; use a context without compile=True inside "
                "use_pattern."
            )
        planner = self._planner
        self._cache.own()
        plan = planner.begin(1, 1, None, ids.device)
        if self._plan is None:
            self._plan = self._fixed(plan, ids.device)
        fixed = self._plan
        assert isinstance(fixed.visible, Tensor) and not isinstance(plan.visible, Visibility)
        fixed.lengths = plan.lengths
        fixed.slots.copy_(plan.slots)
        # All of it, not only what this step changes: a reset may have come in between.
        fixed.visible.zero_()
        fixed.visible[..., : plan.stored] = True if plan.visible is None else plan.visible
        if fixed.rotation is not None:
            fixed.rotation.copy_(self._no_rotation if plan.rotation is None else plan.rotation)
        positions = torch.full((1, 1), position, device=ids.device)
        fixed.started = True
        planner.plan = fixed
        logits = self._step(ids[None], positions, fixed.visible)
        planner.commit()
        return logits[0].clone()

    def _fixed(self, plan: SlotPlan, device: torch.device) -> SlotPlan:
        policy, planner = self._cache.policy, self._planner
        assert policy.capacity is not None
        rotation = None
        if policy.pinned and planner.rotary is not None and planner.positions == "compact":
            rotation = self._no_rotation.to(device, copy=True)[None, None]
        return replace(
            plan,
            slots=plan.slots.clone(),
            stored=policy.capacity,
            rotation=rotation,
            visible=torch.zeros((1, 1, 1, policy.capacity), dtype=torch.bool, device=device),
            commits=False,
        )
