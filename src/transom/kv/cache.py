"""A transformers cache that holds what its policy keeps, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from transom.attention.attending import Attending
from transom.attention.compiling import uncompiled
from transom.attention.huggingface import PlannedOffset, select_attention
from transom.attention.modes import as_autocast, lasting, without_autocast
from transom.attention.patterns import Pattern
from transom.attention.returned_weights import Columns
from transom.attention.trial import model_class, scales_by_position, trial
from transom.errors import CacheError, InputError, PolicyError, StateError, UnsupportedModelError
from transom.kv.build import Asked, build
from transom.kv.cache_layer import CacheLayer
from transom.kv.fits import check_layers
from transom.kv.headwise_planner import HeadwisePlan
from transom.kv.native import (
    can_crop_native,
    change_native,
    copy_native,
    crop_native,
    restore_native,
    tensors_of,
)
from transom.kv.planner import Positions
from transom.kv.recall import RecallLayer
from transom.kv.self_attending import SelfAttendingLayer
from transom.kv.slot_planner import SlotPlan, SlotPlanner
from transom.policies import ModelShape, Policy
from transom.policies.parse import as_policy
from transom.validation import known_keywords, whole_number

__all__ = ["BoundedCache"]


@known_keywords
class BoundedCache(Cache):
    """The keys and values of the tokens that a policy keeps.

    Works wherever transformers takes `past_key_values` (`cache` since 5.24), `model.generate`
    included:

        cache = BoundedCache(Sinks(4, window=1020), config=model.config)
        model.generate(ids, past_key_values=cache, prefill_chunk_size=512)

    Each query sees exactly what `policy.visible` says, in prompts as in single steps, for every
    row of a padded batch. Storage is allocated at the first token and never grows (`Full` grows in
    blocks). Layers that already slide or are linear stay as the model has them; the policy applies
    to those with full attention. Building a cache sets `config._attn_implementation` (see
    `transom.attention.huggingface.select_attention`); other caches keep working with the model.

    Gradients flow through all passes of which something is kept (see `detach`). Through recall, and
    through what was rounded in an earlier pass, there are none, and a backward pass that would need
    them raises `CacheError`.

    Args:
        policy: what to keep, as a policy or its text.
        config: of the model that will use the cache: `model.config`, the same object.
        positions: `"compact"` moves pinned keys along so that no distance exceeds the policy's
            size, which lets a model read past its trained length; `"absolute"` leaves every key at
            the position it was seen at.
        cold: for a policy that recalls, a folder for the blocks that are not in the cache: they go
            to a file there that is mapped into memory and has no name, so that it is gone with the
            process. By default they stay in the process's own memory (pinned, if the model is on a
            GPU).

    Raises:
        UnsupportedModelError: when the model's positions cannot be bounded (learned absolute
            positions, ALiBi, dynamic or longrope rotary), or its layers cannot.
        PolicyError: when `positions` is neither of the two.
        InputError: when no file can be made in `cold`, or the policy does not recall.
    """

    def __init__(
        self,
        policy: Policy | str,
        *,
        config: Any,
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
                f"cold is {str(cold)!r}, and {policy} recalls nothing, so nothing would be stored "
                "there; expected a policy such as hierarchical:1024,global=100000,recall=blocks."
            )
        config = config.get_text_config(decoder=True)
        model_class(config)  # whose module makes known what kinds of layers of its own it has
        layers = DynamicCache(config=config).layers
        # What the config says of dtypes and sizes; `_fit` sees to what there is.
        shape = ModelShape.from_config(config, itemsize=_itemsize(config))
        bounded = _bounded_layers(config, policy.on(shape), layers)
        made = trial(config)
        check_layers(made, bounded)
        self._config, self._asked, self._shape = config, policy, replace(shape, layers=len(bounded))
        self.policy = policy = policy.on(self._shape)
        built = build(Asked(policy, made, bounded, positions, cold))
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
    ) -> Tensor | Attending | None:
        """Plan a forward pass; called by the mask function, before any layer runs."""
        planner: Any = self.planner
        plan = planner.begin(tokens, batch, attention_mask, device, pattern)
        if isinstance(plan, HeadwisePlan):
            plan.layers = self._attending
        visible: Tensor | Attending | None = planner.visible(plan)
        return visible

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; all that the new queries may see of it."""
        plan = self.planner.plan
        if isinstance(plan, SlotPlan) and not plan.commits:  # CompiledStep's, and so is the graph
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return self._update(key_states, value_states, layer_idx, *args, **kwargs)

    @uncompiled
    @lasting
    def _update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if isinstance(self.layers[layer_idx], SelfAttendingLayer):
            key_states, value_states = as_autocast(key_states, value_states)
            self._fit(key_states, value_states)
        with without_autocast(key_states.device):
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def _fit(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make tokens of a size in bytes, by the first keys and values that come.

        Raises:
            CacheError: when later ones are larger, so that the bytes would not suffice.
        """
        if self._asked == self.policy:
            return
        found = replace(
            self._shape,
            kv_heads=key_states.shape[1],
            head_dim=max(key_states.shape[3], value_states.shape[3]),
            itemsize=max(key_states.element_size(), value_states.element_size()),
        )
        layers = list(self._attending.values())
        if not any(layer.is_initialized for layer in layers):
            self._shape = found
            self.policy = self.planner.policy = policy = self._asked.on(found)
            for layer, own in zip(layers, policy.by_layer(len(layers)), strict=True):
                layer.fit(own)
        elif found.token_bytes > self._shape.token_bytes:
            raise CacheError(
                f"{self._asked} is {self.policy} with keys and values of "
                f"{self._shape.token_bytes:,} bytes for each token, and these have "
                f"{found.token_bytes:,}, so they would take more than was asked for; expected one "
                "dtype and size in all layers and passes. Give a size in tokens, or make a new "
                "cache once the model has its dtype."
            )

    @lasting
    def update_conv_state(self, *args: Any, **kwargs: Any) -> Tensor:
        """Store the newest inputs of a convolution, in a layer of the model's own."""
        return super().update_conv_state(*args, **kwargs)

    @lasting
    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> Tensor:
        """Store the state of a recurrence, in a layer of the model's own."""
        return super().update_recurrent_state(*args, **kwargs)

    @property
    def columns(self) -> Columns | None:
        """Where the keys of the pass under way are in the text; None where heads keep others."""
        return self.planner.columns if isinstance(self.planner, SlotPlanner) else None

    @uncompiled
    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """What a layer's keys will span, with this cache aboard (see `PlannedOffset`)."""
        if not isinstance(self.layers[layer_idx], CacheLayerMixin):
            # transformers 5.22 means the first layer with full attention, and asks a linear one.
            layer_idx = self._planned[0].index
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        if isinstance(self.layers[layer_idx], CacheLayer):
            offset = PlannedOffset.of(offset, self)
        return length, offset

    @property
    def _planned(self) -> list[CacheLayer]:
        return [layer for layer in self.layers if isinstance(layer, CacheLayer)]

    @property
    def _native(self) -> list[Any]:
        return [layer for layer in self.layers if not isinstance(layer, CacheLayer)]

    @property
    def _attending(self) -> dict[int, SelfAttendingLayer]:
        return {
            layer.index: layer for layer in self.layers if isinstance(layer, SelfAttendingLayer)
        }

    @property
    def seen(self) -> int:
        """Tokens fed so far, per row, padding included."""
        return self.planner.seen

    @property
    def kept(self) -> int:
        """Tokens still visible to the next forward pass, in the longest row."""
        return self.policy.kept(self.planner.longest)

    @property
    def dropped(self) -> int:
        """Tokens no longer visible, in the longest row."""
        return self.planner.longest - self.kept

    @property
    def nbytes(self) -> int:
        """Bytes allocated in all layers: keys and values, and the states of linear layers."""
        return sum(_layer_bytes(layer) for layer in self.layers)

    @property
    def cold_nbytes(self) -> int:
        """Bytes of blocks that can be recalled, and of the table they are found by."""
        return sum(x.cold_nbytes for x in self.layers if isinstance(x, RecallLayer))

    @property
    def is_bounded_throughout(self) -> bool:
        """Whether the policy applies to every layer, with none left as the model has it."""
        return not self._native

    @lasting
    def rebase(self, by: int) -> None:
        """Turn every kept key back by `by` positions, so that position ids can start lower.

        From then on feed `position_ids` smaller by `by` in all. Float32 angles lose accuracy as
        positions grow (0.06 rad at a million); `Context` rebases every so often, each time at
        least a policy's size after the last, so that a key is turned once in its life at most.

        Raises:
            CacheError: with no bound, with absolute positions, with layers of the model's own, with
                a model that scales queries by their position, or before the cache is full, when
                there is nothing to gain yet.
        """
        if self.scales_by_position:
            raise CacheError(
                f"rebase needs a model to which only distances matter; {self._config.model_type} "
                "scales its queries by their position. Go on with the true positions."
            )
        planner = self.planner
        bounded = self.policy.capacity is not None and self.is_bounded_throughout
        if planner.positions != "compact" or not bounded:
            raise CacheError(
                "rebase needs a bounded policy with compact positions on every layer; "
                f"this cache has {self.policy} with {planner.positions} positions."
            )
        if min(planner.lengths, default=0) < (self.policy.capacity or 0):
            raise CacheError(
                f"rebase needs a full cache: every row must have seen {self.policy.capacity} "
                f"tokens; the shortest has seen {min(planner.lengths, default=0)}."
            )
        planner.base += by
        for layer in self._planned:
            layer.rebase(by)

    @lasting
    def fork(self) -> BoundedCache:
        """An independent cache that goes on from here; storage is shared until one writes.

        Raises:
            CacheError: in the middle of a forward pass.
        """
        self._at_rest("fork")
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin.planner = self.planner.fork()
        twin.layers = [
            layer.fork(twin.planner)
            if isinstance(layer, CacheLayer)
            else copy_native(layer, Tensor.clone)
            for layer in self.layers
        ]
        return twin

    def detach(self) -> None:
        """Let the gradients of later passes end here: truncated backpropagation through time.

        Otherwise they flow back through all passes of which something is kept.
        """
        for layer in self._planned:
            layer.detach()
        for layer in self._native:
            change_native(layer, Tensor.detach)

    def __getstate__(self) -> dict[str, Any]:
        self._at_rest("copy")
        layers = [
            layer if isinstance(layer, CacheLayer) else copy_native(layer, Tensor.detach)
            for layer in self.layers
        ]
        return vars(self) | {"layers": layers}

    @lasting
    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for layer in self._native:
            change_native(layer, Tensor.clone)
        select_attention(self._config)  # a copy, of which there may be a model as well

    def state_dict(self) -> dict[str, Tensor]:
        """All that is held and known, as tensors; not copied, so read it before going on.

        Raises:
            CacheError: in the middle of a forward pass.
            UnsupportedModelError: when a layer of the model's own holds what cannot be saved.
        """
        self._at_rest("state_dict")
        planner = self.planner
        state = {
            "seen": torch.tensor(planner.seen, device="cpu"),
            "base": torch.tensor(planner.base, device="cpu"),
            "lengths": torch.tensor(planner.lengths, dtype=torch.int64, device="cpu"),
            **({} if planner.real is None else {"real": planner.real}),
            "made_for": torch.tensor(
                list(self._made_for.encode()), dtype=torch.uint8, device="cpu"
            ),
        }
        for index, layer in enumerate(self.layers):
            held = layer.state if isinstance(layer, CacheLayer) else tensors_of(layer)
            state |= {f"layers.{index}.{name}": tensor for name, tensor in held.items()}
        return state

    @lasting
    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Become what a cache was that gave this state; its tensors are taken over, not copied.

        Raises:
            StateError: when that cache had another policy, other positions or other layers.
        """
        made_for = bytes(state["made_for"].tolist()).decode()
        if made_for != self._made_for:
            raise StateError(
                f"the state was saved under {made_for} and this cache has {self._made_for}; "
                "expected the same policy and positions."
            )
        layers: list[dict[str, Tensor]] = [{} for _ in self.layers]
        for name, tensor in state.items():
            if name.startswith("layers."):
                _, index, own = name.split(".", 2)
                if int(index) >= len(layers):
                    raise StateError(
                        f"the state has a layer {index} and this cache {len(layers)} layers; "
                        "expected one of the same model."
                    )
                layers[int(index)][own] = tensor
        for layer, held in zip(self.layers, layers, strict=True):
            if isinstance(layer, CacheLayer):
                layer.restore(held, device)
            else:
                restore_native(layer, held, device)
        planner = self.planner
        planner.clear()
        planner.seen, planner.base = int(state["seen"]), int(state["base"])
        planner.lengths = state["lengths"].tolist()
        planner.real = state["real"].cpu() if "real" in state else None

    @property
    def _made_for(self) -> str:
        return f"{self.policy} with {self.planner.positions} positions"

    def _at_rest(self, name: str) -> None:
        if self.planner.plan is not None and self.planner.plan.started:
            raise CacheError(
                f"{name}: a forward pass stopped half-way (an interrupt or an error), so some "
                "layers are a step ahead of others. Call reset() and feed the text again."
            )

    def go_back(self, seen: int, base: int) -> bool:
        """Undo what was fed since `seen` tokens with this `base`, half a forward pass included.

        Whether that could be done without a trace; if not, the cache is of no use until `reset`.
        """
        planner = self.planner
        plan, stopped = planner.plan, (planner.seen, planner.lengths, planner.real)
        if plan is not None and (plan.started or self._native):
            # Layers that the pass has not reached yet hold less, which cropping cannot harm.
            planner.commit()
        tokens = planner.seen - seen
        exact = base == planner.base and (tokens == 0 or not self._native) and self.can_crop(tokens)
        if exact:
            planner.plan = None
            planner.crop(tokens)
        else:
            planner.plan, (planner.seen, planner.lengths, planner.real) = plan, stopped
        return exact

    @lasting
    def own(self) -> None:
        """Copy what forks still share, as the next forward pass would do anyway."""
        for layer in self._planned:
            layer.own()

    @lasting
    @torch.no_grad()
    def reset(self) -> None:
        """Forget every token; storage stays allocated."""
        super().reset()  # type: ignore[no-untyped-call]
        self.planner.clear()

    @property
    def is_croppable(self) -> bool:
        """Whether transformers may call `crop`: where that is always exact, or it is prepared to.

        Assisted decoding announces itself and asks this after the prompt. It gets on as long as
        nothing has to leave; then `crop` refuses, and says why.
        """
        announced = any(layer.record_past for layer in self._planned)
        return announced or all(layer.is_croppable for layer in self.layers)

    def can_crop(self, tokens: int) -> bool:
        """Whether the newest `tokens` columns, padding included, can be dropped without a trace.

        Raises:
            InputError: when that is no number of tokens.
        """
        return self._crop_obstacle(whole_number("can_crop", "tokens", tokens, 0)) is None

    def _crop_obstacle(self, tokens: int) -> str | None:
        if tokens == 0:
            return None
        if (reason := self.planner.crop_obstacle(tokens)) is not None:
            return reason
        for length, dropped in zip(self.planner.lengths, self.planner.newest(tokens), strict=True):
            fits = (layer.can_crop(length, dropped) for layer in self._attending.values())
            if dropped and not all(fits):
                return self.planner.trace(length) or (
                    "they had a say in what is kept of others; use a policy by position that is "
                    "large enough, or 'full'"
                )
        for layer in self._native:
            if not can_crop_native(layer, tokens):
                return (
                    f"the model's own {type(layer).__name__} no longer has what was before them; "
                    "fork before what may have to be taken back, or call activate_past_recording() "
                    "before it is fed"
                )
        return None

    def crop(self, tokens_to_remove: int | Tensor) -> None:  # some releases count in tensors
        """Drop the newest `-tokens_to_remove` columns (the number is negative, as in transformers).

        Raises:
            CacheError: when those tokens have left a trace: they evicted others, had a say in what
                is kept of them, or changed the state of a layer that the model keeps itself. So
                assisted decoding works up to the policy's capacity and then stops with this error
                instead of going on wrongly. Nothing is changed then.
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
        if (reason := self._crop_obstacle(-tokens_to_remove)) is not None:
            raise CacheError(
                f"cannot remove the newest {-tokens_to_remove} of {self.seen} tokens under "
                f"{self.policy}: {reason}."
            )
        for layer in self._native:
            crop_native(layer, tokens_to_remove)
        self.planner.crop(-tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row `i` becomes what row `beam_idx[i]` was, for beam search."""
        self._take_rows(beam_idx, lambda layer: layer.reorder_cache(beam_idx))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times in a row."""
        rows = torch.arange(len(self.planner.lengths), device="cpu").repeat_interleave(repeats)
        self._take_rows(rows, lambda layer: layer.batch_repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows only; `indices` as for indexing, a bool mask included."""
        rows = torch.arange(len(self.planner.lengths), device="cpu")[indices.cpu()]
        self._take_rows(rows, lambda layer: layer.batch_select_indices(indices))

    @lasting
    def _take_rows(self, rows: Tensor, native: Callable[[Any], None]) -> None:
        for layer in self._native:
            native(layer)
        for layer in self._planned:
            layer.take_rows(rows)
        self.planner.reorder(rows.tolist())

    def __repr__(self) -> str:
        return (
            f"BoundedCache({str(self.policy)!r}, seen={self.seen}, kept={self.kept}, "
            f"nbytes={self.nbytes})"
        )


def _bounded_layers(config: Any, policy: Policy, layers: list[Any]) -> list[int]:
    """Indices of the layers that the policy applies to."""
    kinds = [type(layer) for layer in layers]
    full = [index for index, kind in enumerate(kinds) if kind is DynamicLayer]
    if full:
        growing = {
            kind.__name__
            for kind in kinds
            if issubclass(kind, DynamicLayer)
            and kind is not DynamicLayer
            and not getattr(kind, "is_sliding", False)
        }
        if growing:
            raise UnsupportedModelError(
                f"{config.model_type} has layers of its own that grow with the text "
                f"({', '.join(sorted(growing))}), which no policy can bound yet."
            )
        return full
    sliding = [index for index, kind in enumerate(kinds) if kind is DynamicSlidingWindowLayer]
    if not sliding:
        raise UnsupportedModelError(
            f"{config.model_type} has no layer with full attention, so there is nothing to bound."
        )
    window = min(layers[index].sliding_window for index in sliding)
    if policy.capacity is None or policy.capacity > window:
        raise UnsupportedModelError(
            f"every attention layer of {config.model_type} already slides over {window} tokens, "
            f"fewer than {policy} asks for; choose a policy of at most {window} tokens."
        )
    return sliding


def _itemsize(config: Any) -> int:
    dtype = getattr(config, "dtype", None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else torch.get_default_dtype().itemsize


def _layer_bytes(layer: Any) -> int:
    if isinstance(layer, CacheLayer):
        return layer.nbytes
    attention = [getattr(layer, name, None) for name in ("keys", "values")]
    linear = [getattr(layer, name, {}).values() for name in ("conv_states", "recurrent_states")]
    tensors = [x for x in (*attention, *chain(*linear)) if x is not None]
    # Of the storage, since sliding layers keep views of larger tensors alive.
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
