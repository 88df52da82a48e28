"""A policy whose size may be given in bytes, in tokens for the model at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PretrainedConfig

from transom.errors import CacheError
from transom.policies import ModelShape, Policy

__all__ = ["FittedPolicy"]


@dataclass(frozen=True)
class FittedPolicy:
    """A policy, and the sizes of the keys and values that it applies to.

    Attributes:
        asked: the policy as it was given.
        shape: of the layers that it applies to: first by the config, then by what the model gives.
    """

    asked: Policy
    shape: ModelShape

    @classmethod
    def by_config(cls, policy: Policy, config: PretrainedConfig) -> FittedPolicy:
        """Fitted to what a config says of dtypes and sizes."""
        return cls(policy, ModelShape.from_config(config, itemsize=_itemsize(config)))

    @cached_property
    def policy(self) -> Policy:
        """The policy with its size in tokens."""
        return self.asked.on(self.shape)

    @property
    def is_final(self) -> bool:
        """Whether the size was given in tokens, so that it does not depend on the model."""
        return self.asked == self.policy

    def on_layers(self, layers: int) -> FittedPolicy:
        """The same for another number of layers."""
        return FittedPolicy(self.asked, replace(self.shape, layers=layers))

    def on_states(self, key_states: Tensor, value_states: Tensor) -> FittedPolicy:
        """The same for a model that gives such keys and values, `(batch, kv_heads, _, dim)`."""
        found = replace(
            self.shape,
            kv_heads=key_states.shape[1],
            head_dim=max(key_states.shape[3], value_states.shape[3]),
            itemsize=max(key_states.element_size(), value_states.element_size()),
        )
        return FittedPolicy(self.asked, found)

    def check_holds(self, found: FittedPolicy) -> None:
        """Check that keys and values as in `found` fit into what this one has allocated.

        Raises:
            CacheError: when they are larger, so that the bytes asked for would not suffice.
        """
        if found.shape.token_bytes > self.shape.token_bytes:
            raise CacheError(
                f"{self.asked} is {self.policy} with keys and values of "
                f"{self.shape.token_bytes:,} bytes for each token, and these have "
                f"{found.shape.token_bytes:,}, so they would take more than was asked for; "
                "expected one dtype and size in all layers and passes. Give a size in tokens, or "
                "make a new cache once the model has its dtype."
            )


def _itemsize(config: PretrainedConfig) -> int:
    dtype = getattr(config, "dtype", None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else torch.get_default_dtype().itemsize
