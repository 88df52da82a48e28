"""Whether a mask that a model asks for is that of causal text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["deviates"]

BLOCK = 256  # queries looked at together


def deviates(
    *,
    mask_function: Callable[..., Tensor] | None = None,
    batch_size: int,
    q_length: int,
    device: torch.device,
    q_offset: int = 0,
    local_size: int | None = None,
    use_vmap: bool = False,
    allow_is_causal_skip: bool = False,
    **_: Any,
) -> str | None:
    """How a mask differs from that of causal text, sliding or not; None if it does not.

    Takes what transformers gives a mask function, and looks at the new tokens among themselves. The
    model itself says, with `allow_is_causal_skip`, when nothing was put over its plain mask; then
    neighbours are enough to tell packed sequences and chunks. Otherwise all pairs are looked at.
    """
    if use_vmap:
        return "a mask pattern of its own"
    if mask_function is None or q_length < 2:
        return None
    rows = torch.arange(batch_size, device=device)[:, None, None]
    new = torch.arange(q_length, device=device) + int(q_offset)
    if allow_is_causal_skip:
        pairs = [(new[1:], new[:-1])]
    else:
        pairs = [(block[:, None], new) for block in new.split(BLOCK)]
    for queries, keys in pairs:
        expected = keys <= queries
        if local_size is not None:
            expected = expected & (keys > queries - local_size)
        seen = torch.as_tensor(mask_function(rows, 0, queries, keys), device=device)
        if bool((seen & ~expected).any()):
            return "tokens that see later ones (image tokens that see each other, say)"
        if bool((expected & ~seen).any()):
            return "tokens that do not see all those before them (packed sequences, say)"
    return None
