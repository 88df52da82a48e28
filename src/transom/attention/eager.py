"""The attention that a model computes step by step, with the weights in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["eager_attention_of"]


def eager_attention_of(module: Any) -> Callable[..., Any] | None:
    """What transformers runs for `"eager"`: in the module of the attention class, or of a parent.

    transformers keeps one for each model, outside its registry.
    """
    for kind in type(module).__mro__:
        found: Callable[..., Any] | None = getattr(
            sys.modules.get(kind.__module__), "eager_attention_forward", None
        )
        if found is not None:
            return found
    return None
