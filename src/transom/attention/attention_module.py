"""What is asked of the attention modules of a transformers model."""

from __future__ import annotations

import sys
from typing import Protocol

from torch import Tensor, nn

__all__ = ["AttentionFunction", "eager_attention_of", "layer_index_of"]


class AttentionFunction(Protocol):
    """An attention function of transformers; returns its output and, if it has them, weights."""

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor | None]: ...


def eager_attention_of(module: nn.Module) -> AttentionFunction | None:
    """The function that transformers runs for `"eager"`; None where it cannot be found.

    transformers has one for each model, outside its registry: in the Python module of the
    attention class, or in that of a parent class.
    """
    for kind in type(module).__mro__:
        found: AttentionFunction | None = getattr(
            sys.modules.get(kind.__module__), "eager_attention_forward", None
        )
        if found is not None:
            return found
    return None


def layer_index_of(module: nn.Module) -> int | None:
    """The index of the layer that an attention module belongs to; None if it does not know it."""
    index = getattr(module, "layer_idx", None)
    return index if isinstance(index, int) else None
