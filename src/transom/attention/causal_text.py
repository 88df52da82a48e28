"""Whether the mask that a model asks for is the mask of causal text."""

from __future__ import annotations

from collections.abc import Callable

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
    **_: object,
) -> str | None:
    """How a mask differs from the mask of causal text; None if it does not.

    Takes what transformers gives a mask function, and compares the new tokens with each other. With
    `allow_is_causal_skip` the model says that it changed nothing in its causal mask. Then comparing
    neighbours is enough to notice packed sequences and chunks. Otherwise all pairs are compared.

    Args:
        mask_function: of (batch, head, query, key) indices; None for causal text.
        batch_size: rows of the batch.
        q_length: new tokens.
        device: of the mask.
        q_offset: position of the first new token.
        local_size: tokens that a sliding layer sees; None for a layer that sees all.
        use_vmap: the mask function takes single indices only, so it is the model's own.
        allow_is_causal_skip: the mask function is the plain one.
    """
    if use_vmap:
        return "a mask pattern of its own"
    if (
        mask_function is None or q_length < 2 or device.type == "meta"
    ):  # which whoever plans refuses
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
            return "tokens that see later ones (such as image tokens that see each other)"
        if bool((expected & ~seen).any()):
            return "tokens that do not see all earlier ones (such as packed sequences)"
    return None
