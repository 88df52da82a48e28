"""A transformers cache that holds what its policy keeps, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import CacheLayerMixin

from transom.attention.attending import Attending
from transom.attention.compiling import uncompiled
from transom.attention.huggingface import select_attention
from transom.attention.modes import as_autocast, lasting, without_autocast
from transom.attention.patterns import Pattern
from transom.attention.planned_offset import PlannedOffset
from transom.attention.returned_weights import Columns
from transom.attention.trial import model_class, scales_by_position, trial
from transom.errors import CacheError, InputError, PolicyError
from transom.kv.build import CacheSpec, build
from transom.kv.cache_layer import CacheLayer
from transom.kv.cropping import crop_obstacle, go_back
from transom.kv.fitted_policy import FittedPolicy
from transom.kv.headwise_planner import HeadwisePlan
from transom.kv.native_layers import crop_native
from transom.kv.persistence import load_state, state_of
from transom.kv.planned_cache import PlannedCache
from transom.kv.planner import Positions
from transom.kv.self_attending_layer import SelfAttendingLayer
from transom.kv.slot_plan import SlotPlan
from transom.kv.slot_planner import SlotPlanner
from transom.kv.supported_layers import (
    check_attention,
    check_decoder_only,
    check_image_positions,
    check_layers,
    layers_of_model,
    layers_to_bound,
    within_window,
)
from transom.policies import Policy
from transom.policies.parse import as_policy
from transom.validation import known_keywords, whole_number

__all__ = ["BoundedCache"]


@known_keywords
class BoundedCache(PlannedCache):
    """The keys and values of the tokens that a policy keeps.

    Works wherever transformers takes `past_key_values` (`cache` since 5.24), `model.generate`
    included:

        cache = BoundedCache(Sinks(4, window=1020), config=model.config)
        model.generate(ids, past_key_values=cache, prefill_chunk_size=512)

    Each query sees exactly what `policy.visible` says, in prompts and in single steps, in every
    row of a padded batch. Storage is allocated at the first token and never grows (`Full` grows in
    blocks). Layers that slide by themselves or are linear stay as the model has them; the policy
    applies to the layers with full attention. Where every layer slides, `Full` is the model's own
    window, and other policies must keep no more than that. Making a cache sets
    `config._attn_implementation` (see `transom.attention.huggingface.select_attention`); other
    caches go on working with the model.

    For looking into it, `cache.layers[i].keys` and `.values` are copies of what is kept, and
    iterating gives those of all layers, as with a `DynamicCache`; see `ReadableLayer`.

    Gradients flow through all passes of which something is kept (see `detach`). None flow through
    recalled blocks, or through keys and values that an earlier pass quantized: a backward pass
    that needs those raises `CacheError`.

    Args:
        policy: what to keep, as a policy or its text.
        config: of the model that will use the cache: `model.config`, the same object. For a model
            of text and images that is given text only, `model.config.get_text_config()` will do;
            where images have positions of several axes (M-RoPE), some policies need that.
        positions: `"compact"` moves pinned keys along, so that no distance exceeds the policy's
            size, and a model can read past its trained length; `"absolute"` leaves every key at
            the position it was seen at.
        cold: for a policy that recalls, a folder for the blocks that are not in the cache. They go
            to a file there that is mapped into memory and has no name, so it is gone when the
            process ends. By default they stay in the process's own memory (pinned, if the model is
            on a GPU).

    Raises:
        UnsupportedModelError: when the model's positions cannot be bounded (learned absolute
            positions, ALiBi), or its layers cannot.
        PolicyError: when `positions` is neither of the two.
        InputError: when no file can be made in `cold`, or the policy does not recall.
    """

    def __init__(
        self,
        policy: Policy | str,
        *,
        config: PretrainedConfig,
        positions: Positions = "compact",
        cold: Path | str | None = None,
    ) -> None:
        policy = as_policy(policy)
        if not hasattr(config, "get_text_config"):
            raise InputError(
                f"config is {type(config).__name__}; expected that of the model: "
                "BoundedCache(policy, config=model.config)."
            )
        if positions not in get_args(Positions):
            raise PolicyError(f"positions is {positions!r}; expected 'compact' or 'absolute'.")
        if cold is not None and policy.decides_by != "recall":
            raise InputError(
                f"cold is {str(cold)!r}, but {policy} recalls nothing, so nothing would be stored "
                "there; expected a policy such as hierarchical:1024,global=100000,recall=blocks."
            )
        check_decoder_only(config)
        whole, config = config, config.get_text_config(decoder=True)
        model_class(config)  # its module registers the kinds of layers that only it has
        layers = layers_of_model(config)
        fitted = FittedPolicy.by_config(within_window(config, policy, layers), config)
        indices = layers_to_bound(config, fitted.policy, layers)
        made = trial(config)
        check_layers(made, indices)
        check_attention(made, indices, config._attn_implementation)
        if whole is not config:
            check_image_positions(made, fitted.policy, positions == "compact")
        self._config, self._fitted = config, fitted.on_layers(len(indices))
        self.policy = self._fitted.policy
        built = build(CacheSpec(self.policy, made, indices, positions, cold))
        self.planner = built.planner
        for layer in built.layers:
            layers[layer.index] = layer
        super().__init__(layers=layers)
        self.scales_by_position = scales_by_position(made)
        select_attention(config)

    @lasting
    def begin(
        self,
        tokens: int,
        batch: int,
        attention_mask: Tensor | None,
        device: torch.device,
        pattern: Pattern | None = None,
        blocks: Tensor | None = None,
    ) -> Tensor | Attending | None:
        """Plan a forward pass; the mask function calls this before any layer runs."""
        planner: Any = self.planner
        plan = planner.begin(tokens, batch, attention_mask, device, pattern, blocks)
        if isinstance(plan, HeadwisePlan):
            plan.layers = self._attending
        visible: Tensor | Attending | None = planner.visible(plan)
        return visible

    def awaits(self, visible: Tensor | Attending | None) -> bool:
        """Whether this is what `begin` gave for the pass that comes next."""
        planner: Any = self.planner
        plan = planner.plan
        return plan is not None and not plan.started and planner.visible(plan) is visible

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return all that the new queries may see."""
        plan = self.planner.plan
        if isinstance(plan, SlotPlan) and not plan.commits:  # inside the graph of a CompiledStep
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return self._update(key_states, value_states, layer_idx, *args, **kwargs)

    @uncompiled
    @lasting
    def _update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        if isinstance(self.layers[layer_idx], SelfAttendingLayer):
            key_states, value_states = as_autocast(key_states, value_states)
            self._fit(key_states, value_states)
        with without_autocast(key_states.device):
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def _fit(self, key_states: Tensor, value_states: Tensor) -> None:
        """Turn a size in bytes into tokens, by the first keys and values that come.

        Raises:
            CacheError: when later ones are larger, so that the bytes would not suffice.
        """
        if self._fitted.is_final:
            return
        found = self._fitted.on_states(key_states, value_states)
        layers = list(self._attending.values())
        if any(layer.is_initialized for layer in layers):
            self._fitted.check_holds(found)
            return
        self._fitted, self.policy = found, found.policy
        self.planner.policy = found.policy  # type: ignore[assignment]  # of the same kind
        for layer, own in zip(layers, found.policy.by_layer(len(layers)), strict=True):
            layer.fit(own)

    @property
    def columns(self) -> Columns | None:
        """The positions of the keys of the current pass; None if heads have different ones."""
        return self.planner.columns if isinstance(self.planner, SlotPlanner) else None

    @uncompiled
    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """How many keys a layer will have, and the offset of the first (see `PlannedOffset`)."""
        if not isinstance(self.layers[layer_idx], CacheLayerMixin):
            # transformers 5.22 may ask a linear layer, but means the first one with full attention.
            layer_idx = self._planned[0].index
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        if isinstance(self.layers[layer_idx], CacheLayer):
            offset = PlannedOffset.of(offset, self)
        return length, offset

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state as tensors. They are not copied, so use them before the next pass.

        Raises:
            CacheError: in the middle of a forward pass.
            UnsupportedModelError: when a layer of the model's own holds what cannot be saved.
        """
        self._check_between_passes("state_dict")
        return state_of(self.layers, self.planner)

    @lasting
    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over a state that `state_dict` gave; its tensors are not copied.

        Raises:
            StateError: when that cache had another policy, other positions or other layers.
        """
        load_state(self.layers, self.planner, state, device)

    @property
    def is_croppable(self) -> bool:
        """Whether transformers may call `crop`: when that is always exact, or was announced.

        Assisted decoding announces it, and asks this after the prompt. It works as long as nothing
        has been evicted; after that `crop` refuses, and says why.
        """
        announced = any(layer.record_past for layer in self._planned)
        return announced or all(layer.is_croppable for layer in self.layers)

    def can_crop(self, tokens: int) -> bool:
        """Whether `crop` can remove the newest `tokens` columns, padding included.

        Raises:
            InputError: when it is not a number of tokens.
        """
        tokens = whole_number("can_crop", "tokens", tokens, 0)
        return crop_obstacle(self.layers, self.planner, tokens) is None

    def crop(self, tokens_to_remove: int | Tensor) -> None:  # some releases count in tensors
        """Remove the newest `-tokens_to_remove` columns (a negative number, as in transformers).

        Afterwards the cache is as if they had never been fed.

        Raises:
            CacheError: when that cannot be: the tokens evicted others, had a say in what is kept of
                them, or changed the state of a layer that the model keeps itself. So assisted
                decoding works up to the policy's capacity, and then stops with this error instead
                of going on wrongly. Nothing is changed then.
            InputError: when it is no whole number.
        """
        if isinstance(tokens_to_remove, Tensor) and not tokens_to_remove.is_floating_point():
            tokens_to_remove = int(tokens_to_remove.item())
        tokens_to_remove = whole_number("crop", "tokens_to_remove", tokens_to_remove)
        if tokens_to_remove > 0:
            raise CacheError(
                f"crop({tokens_to_remove}) gives a length to keep; expected a negative number of "
                "tokens to remove."
            )
        reason = crop_obstacle(self.layers, self.planner, -tokens_to_remove)
        if reason is not None:
            raise CacheError(
                f"cannot remove the newest {-tokens_to_remove} of {self.seen} tokens under "
                f"{self.policy}: {reason}."
            )
        for layer in self._native:
            crop_native(layer, tokens_to_remove)
        self.planner.crop(-tokens_to_remove)

    def go_back(self, seen: int, base: int) -> bool:
        """Undo what was fed since `seen` tokens with this `base`, half a forward pass included.

        Returns:
            Whether that could be done exactly. If not, only `reset` makes the cache usable again.
        """
        return go_back(self.layers, self.planner, seen, base)
