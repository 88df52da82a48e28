"""A transformers cache whose layers follow one planner: counts, sizes, forks and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig

from transom.attention.huggingface import select_attention
from transom.attention.modes import lasting
from transom.errors import CacheError
from transom.kv.build import CachePlanner
from transom.kv.cache_layer import CacheLayer
from transom.kv.native_layers import NativeLayer, change_native, copy_native
from transom.kv.planner import Positions
from transom.kv.recall import RecallLayer
from transom.kv.self_attending_layer import SelfAttendingLayer
from transom.policies import Policy
from transom.validation import known_keywords

__all__ = ["PlannedCache"]


@known_keywords
class PlannedCache(Cache):
    """What a bounded cache knows and does between forward passes.

    Attributes:
        policy: what is kept, with its size in tokens.
        planner: plans each forward pass, and counts its tokens.
        scales_by_position: whether the model scales queries by their position in the text.
    """

    policy: Policy
    planner: CachePlanner
    scales_by_position: bool
    _config: PretrainedConfig

    @property
    def _planned(self) -> list[CacheLayer]:
        """The layers that the policy applies to."""
        return [layer for layer in self.layers if isinstance(layer, CacheLayer)]

    @property
    def _native(self) -> list[NativeLayer]:
        """The layers that are as the model has them."""
        return [layer for layer in self.layers if not isinstance(layer, CacheLayer)]

    @property
    def _attending(self) -> dict[int, SelfAttendingLayer]:
        """The layers that compute attention themselves, by index."""
        return {
            layer.index: layer for layer in self.layers if isinstance(layer, SelfAttendingLayer)
        }

    def __iter__(self) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Keys, values and the size of the window of each layer, as a `DynamicCache` gives them.

        So `DynamicCache(cache)` is a copy of what is kept now. For the keys and values see
        `ReadableLayer`; the size is that of a sliding layer of the model's own, else None.

        Raises:
            CacheError: where these cannot be read.
        """
        for layer in self.layers:
            names = ("keys", "values", "_sliding_window_tensor")
            keys, values, window = (getattr(layer, name, None) for name in names)
            yield keys, values, window

    @property
    def seen(self) -> int:
        """Tokens fed so far, per row, padding included."""
        return self.planner.seen

    @property
    def next_position(self) -> int:
        """The position id of the next token: `seen`, less what `rebase` has taken off."""
        return self.planner.seen - self.planner.base

    @property
    def position_limit(self) -> int | None:
        """The position ids that the model can be given are smaller; None for no limit."""
        own = self.planner.own
        return None if own is None or own.limit is None else own.limit - 1

    def __bool__(self) -> bool:
        """False under a bounded policy in a model such as Phi-3, whose `generate` then keeps it.

        In the models with `original_max_position_embeddings` in their config, `generate` drops a
        cache that is true and computes the whole text again, once it is longer than that. They do
        so because their frequencies may change there, which bounded caches allow for.
        """
        drops = hasattr(self._config, "original_max_position_embeddings")
        return not drops or self.policy.capacity is None

    @property
    def positions(self) -> Positions:
        """Where kept tokens are: `"compact"` or `"absolute"`, as given when the cache was made."""
        return self.planner.positions

    @property
    def kept(self) -> int:
        """Tokens that the next forward pass can see, in the longest row."""
        return self.policy.kept(self.planner.longest)

    @property
    def dropped(self) -> int:
        """Tokens that no later forward pass can see, in the longest row."""
        return self.planner.longest - self.kept

    @property
    def nbytes(self) -> int:
        """Bytes allocated in all layers: keys and values, and the states of linear layers."""
        return sum(_layer_bytes(layer) for layer in self.layers)

    @property
    def cold_nbytes(self) -> int:
        """Bytes of blocks that can be recalled, and of the tables that find them."""
        return sum(x.cold_nbytes for x in self.layers if isinstance(x, RecallLayer))

    @property
    def is_bounded_throughout(self) -> bool:
        """Whether the policy applies to every layer, and none is as the model has it."""
        return not self._native

    @lasting
    def rebase(self, by: int) -> None:
        """Rotate every kept key back by `by` positions, so that position ids can start lower.

        From then on feed `position_ids` that are smaller by `by` in all. Float32 angles lose
        accuracy as positions grow (0.06 rad at a million). `Context` rebases now and then, at
        least a policy's size after the last time, so that a key is rotated at most once more.

        Raises:
            CacheError: with no bound, with absolute positions, with layers of the model's own, with
                a model that scales queries by their position, or before the cache is full, when
                there is nothing to gain yet.
        """
        if self.scales_by_position:
            raise CacheError(
                f"rebase needs a model in which only distances matter; {self._config.model_type} "
                "scales its queries by their position. Go on with the true positions."
            )
        capacity, lengths = self.policy.capacity, self.planner.lengths
        if self.positions != "compact" or capacity is None or not self.is_bounded_throughout:
            raise CacheError(
                "rebase needs a bounded policy with compact positions on every layer; "
                f"this cache has {self.policy} with {self.positions} positions."
            )
        if min(lengths, default=0) < capacity:
            raise CacheError(
                f"rebase needs a full cache: every row must have seen {capacity} tokens; the "
                f"shortest has seen {min(lengths, default=0)}."
            )
        self.planner.base += by
        for layer in self._planned:
            layer.rebase(by)

    @lasting
    def fork(self) -> Self:
        """An independent cache that goes on from here; they share storage until one writes.

        Raises:
            CacheError: in the middle of a forward pass.
        """
        self._check_between_passes("fork")
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

    @lasting
    def own(self) -> None:
        """Copy now what forks still share; the next forward pass would do it anyway."""
        for layer in self._planned:
            layer.own()

    def detach(self) -> None:
        """End the gradients of later passes here: truncated backpropagation through time.

        Otherwise they flow back through all passes whose tokens are kept.
        """
        for layer in self._planned:
            layer.detach()
        for native in self._native:
            change_native(native, Tensor.detach)

    def __getstate__(self) -> dict[str, object]:
        self._check_between_passes("copy")
        layers = [
            layer if isinstance(layer, CacheLayer) else copy_native(layer, Tensor.detach)
            for layer in self.layers
        ]
        return vars(self) | {"layers": layers}

    @lasting
    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        for layer in self._native:
            change_native(layer, Tensor.clone)
        select_attention(self._config)  # the model may have been copied too

    def _check_between_passes(self, name: str) -> None:
        if self.planner.plan is not None and self.planner.plan.started:
            raise CacheError(
                f"{name}: a forward pass stopped half-way (an interrupt or an error), so some "
                "layers are a step ahead of others. Call reset() and feed the text again."
            )

    @lasting
    @torch.no_grad()
    def reset(self) -> None:
        """Forget every token; storage stays allocated."""
        for native in self._native:
            native.reset()
        for layer in self._planned:
            layer.clear()
        self.planner.clear()

    @lasting
    def update_conv_state(self, *args: Any, **kwargs: Any) -> Tensor:
        """Store the newest inputs of a convolution, in a layer of the model's own."""
        return super().update_conv_state(*args, **kwargs)

    @lasting
    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> Tensor:
        """Store the state of a recurrence, in a layer of the model's own."""
        return super().update_recurrent_state(*args, **kwargs)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row `i` becomes what row `beam_idx[i]` was, for beam search."""
        self._take_rows(beam_idx, lambda layer: layer.reorder_cache(beam_idx))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times, next to each other."""
        rows = torch.arange(len(self.planner.lengths), device="cpu").repeat_interleave(repeats)
        self._take_rows(rows, lambda layer: layer.batch_repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows only; `indices` as for indexing, a bool mask included."""
        rows = torch.arange(len(self.planner.lengths), device="cpu")[indices.cpu()]
        self._take_rows(rows, lambda layer: layer.batch_select_indices(indices))

    @lasting
    def _take_rows(self, rows: Tensor, in_native: Callable[[NativeLayer], None]) -> None:
        for native in self._native:
            in_native(native)
        for layer in self._planned:
            layer.take_rows(rows)
        self.planner.reorder(rows.tolist())

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.policy)!r}, seen={self.seen}, kept={self.kept}, "
            f"nbytes={self.nbytes})"
        )


def _layer_bytes(layer: CacheLayer | NativeLayer) -> int:
    if isinstance(layer, CacheLayer):
        return layer.nbytes
    attention = [getattr(layer, name, None) for name in ("keys", "values")]
    linear = [getattr(layer, name, {}).values() for name in ("conv_states", "recurrent_states")]
    tensors = [x for x in (*attention, *chain(*linear)) if x is not None]
    # Of the storage, since sliding layers keep views of larger tensors alive.
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
