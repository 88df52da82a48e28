"""Attention to a part of the keys, and to two parts together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Attended", "attend_part", "together"]


class Attended(NamedTuple):
    """What attention to some keys gives.

    Attributes:
        out: `(..., queries, value_dim)`, the means of the values.
        sums: `(..., queries)` float32, logs of the sums of the exponents of the scores: by them
            one can tell how much attention any other key would get beside these.
    """

    out: Tensor
    sums: Tensor


def attend_part(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, scale: float) -> Attended:
    """Attention to keys that are not all that the queries see.

    Args:
        q: `(rows, kv_heads, queries, head_dim)`; the queries of a group's heads are one after the
            other.
        k: `(rows, kv_heads, keys, head_dim)`.
        v: `(rows, kv_heads, keys, value_dim)`.
        hidden: `(queries, n)` bool, which of the last `n` keys are not seen; None for none.
        scale: of the scores.

    Returns:
        The output in float32.
    """
    scores = ((q * scale).to(k.dtype) @ k.transpose(-1, -2)).float()
    if hidden is not None:
        scores[..., -hidden.shape[1] :].masked_fill_(hidden, -torch.inf)
    weights = scores.softmax(-1)
    sums = scores.amax(-1) - weights.amax(-1).log()
    return Attended((weights.to(v.dtype) @ v).float(), sums)


def together(one: Attended, other: Attended) -> Attended:
    """Attention to two parts of the keys that have none in common, from that to each."""
    share = (one.sums - other.sums).sigmoid()[..., None]
    return Attended(torch.lerp(other.out, one.out, share), torch.logaddexp(one.sums, other.sums))
