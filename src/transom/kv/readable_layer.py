"""What transformers, and whoever looks into a cache, may ask of one of its layers."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from transom.errors import CacheError
from transom.kv.planner import AnyPlanner

__all__ = ["KeptStates", "ReadableLayer"]


class KeptStates(NamedTuple):
    """Keys and values of the kept tokens, `(batch, kv_heads, kept, dim)` each."""

    keys: Tensor
    values: Tensor


class ReadableLayer(CacheLayerMixin):
    """One layer as others see it: what it has kept, how long it is, and where it is stored.

    A layer cannot be changed alone, because one plan serves all layers of a cache.

    Attributes:
        tensors: the storage by name, each `(batch, ...)`; empty before the first token.
        record_past: whether transformers has announced that tokens will be removed again. Layers
            of a model's own then record what they need for it.
    """

    is_sliding = False
    record_past = False
    tensors: dict[str, Tensor]
    planner: AnyPlanner
    device: torch.device

    @property
    def keys(self) -> Tensor | None:
        """A copy of the kept keys, `(batch, kv_heads, kept, head_dim)`; None without a token.

        They are those that the newest token sees, in the order of the text, each rotated to where
        that token finds it. Without a bound that is what a `DynamicLayer` holds, but for padding:
        a row that keeps fewer tokens than the fullest one has zeros in front.

        Raises:
            CacheError: in the middle of a forward pass, or where the heads of a layer keep
                different numbers of tokens.
        """
        kept = self._read_kept()
        return None if kept is None else kept.keys

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        self._refuse_states("keys")

    @property
    def values(self) -> Tensor | None:
        """The values that belong to `keys`, in the same order."""
        kept = self._read_kept()
        return None if kept is None else kept.values

    @values.setter
    def values(self, values: Tensor | None) -> None:
        self._refuse_states("values")

    @abstractmethod
    def _kept_states(self) -> KeptStates:
        """What `keys` and `values` give, once there is something; new memory."""

    def _read_kept(self) -> KeptStates | None:
        plan = self.planner.plan
        if plan is not None and plan.started:
            raise CacheError(
                "keys and values of a bounded cache cannot be read in the middle of a forward "
                "pass, when some layers are ahead of others. Read them between two passes."
            )
        return self._kept_states() if self.is_initialized and self.planner.longest else None

    def _refuse_states(self, name: str) -> None:
        if hasattr(self, "is_initialized"):  # else transformers' own __init__ sets them to None
            raise CacheError(
                f"{name} of a layer of a bounded cache cannot be replaced, because their places "
                "follow from how many tokens were fed. Feed the tokens to the model, or use a "
                "DynamicCache."
            )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys there will be, and the offset of the first."""
        return self.planner.filled + query_length, self.planner.seen - self.planner.filled

    def get_seq_length(self) -> int:
        """Tokens seen, padding included. Not tokens kept: transformers feeds those past this."""
        return self.planner.seen

    def get_max_length(self) -> int:
        """-1, for no limit: any number of tokens can be fed."""
        return -1

    def activate_past_recording(self) -> None:
        """Announce that tokens will be removed again; assisted decoding does at its start."""
        self.record_past = True

    def offload(self) -> None:
        """Move the storage to the CPU, until `prefetch`."""
        self.tensors = {name: tensor.to("cpu") for name, tensor in self.tensors.items()}

    def prefetch(self) -> None:
        """Move the storage back to where the layer computes."""
        self.tensors = {name: tensor.to(self.device) for name, tensor in self.tensors.items()}

    def reset(self) -> None:
        """Refused: see the class."""
        self._refuse_alone("reset")

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: see the class."""
        self._refuse_alone("crop")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Refused: see the class."""
        self._refuse_alone("reorder_cache")

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Refused: see the class."""
        self._refuse_alone("batch_repeat_interleave")

    def batch_select_indices(self, indices: Tensor) -> None:
        """Refused: see the class."""
        self._refuse_alone("batch_select_indices")

    def _refuse_alone(self, name: str) -> NoReturn:
        raise CacheError(
            f"{name} was called on one layer of a bounded cache. Its layers can only change "
            f"together: call {name} of the cache."
        )
