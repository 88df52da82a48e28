"""Masks as tensors: which forms are accepted, and what each of them means."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.patterns import Pattern, padding
from transom.errors import InputError

__all__ = ["dense_mask", "real_tokens", "with_mask"]


def with_mask(
    pattern: Pattern, mask: object, batch: int, heads: int, seq: int
) -> tuple[Pattern, Tensor | None]:
    """The pattern with padding applied; and the mask itself, if it is one of queries by keys.

    Args:
        mask: as `real_tokens` or, with 4 dimensions, `dense_mask` takes it; None for no mask.

    Raises:
        InputError: if the pattern is for another batch, or as `real_tokens` and `dense_mask`.
    """
    if pattern.batch not in (None, batch):
        raise InputError(
            f"the pattern {pattern!r} is for {pattern.batch} rows and x has {batch}; expected the "
            "same number of rows."
        )
    if mask is None:
        return pattern, None
    if getattr(mask, "ndim", 0) == 4:
        return pattern, dense_mask(mask, batch, heads, seq, seq)
    real = real_tokens(mask, batch, seq)
    return (pattern if bool(real.all()) else pattern & padding(real)), None


def real_tokens(mask: object, batch: int, length: int) -> Tensor:
    """Which tokens are real: `(batch, length)` or `(1, length)` bool.

    Args:
        mask: `(length,)`, `(1, length)` or `(batch, length)`, bool or whole numbers 0 and 1; true
            for real tokens.

    Raises:
        InputError: on any other shape, dtype or number. Floats are refused, because a 0 could mean
            padding, or that nothing is added to the score.
    """
    given = _tensor(mask)
    shape = tuple(given.shape)
    if shape not in ((length,), (1, length), (batch, length)):
        raise InputError(
            f"mask has shape {shape}; expected ({length},) or ({batch}, {length}), true for real "
            "tokens. For a mask of queries by keys pass 4 dimensions: mask[None, None]."
        )
    if given.is_floating_point() or given.is_complex():
        raise InputError(
            f"mask of shape {shape} has dtype {given.dtype}; expected bool or whole numbers, 1 for "
            "real tokens and 0 for padding: mask.bool(). A mask that is added to the scores has 4 "
            "dimensions."
        )
    real = given.bool()
    if given.dtype != torch.bool and not torch.equal(real.to(given.dtype), given):
        raise InputError(
            f"mask of shape {shape} holds numbers from {int(given.min())} to {int(given.max())}; "
            "expected only 1 for real tokens and 0 for padding."
        )
    return real.view(-1, length)


def dense_mask(mask: object, batch: int, heads: int, q_len: int, kv_len: int) -> Tensor:
    """`mask` itself, after a check that it is a mask of queries by keys.

    Args:
        mask: `(batch or 1, heads or 1, q_len, kv_len)`; bool, true where a query may attend, or
            floating, added to the scaled scores.

    Raises:
        InputError: on any other shape or dtype.
    """
    given = _tensor(mask)
    shape = tuple(given.shape)
    if not (
        len(shape) == 4
        and shape[0] in (1, batch)
        and shape[1] in (1, heads)
        and shape[2:] == (q_len, kv_len)
    ):
        raise InputError(
            f"mask has shape {shape}; expected ({batch} or 1, {heads} or 1, {q_len}, {kv_len}): "
            f"rows, heads, queries, keys. For padding pass ({batch}, {kv_len})."
        )
    if given.dtype != torch.bool and not given.is_floating_point():
        raise InputError(
            f"mask of shape {shape} has dtype {given.dtype}; expected bool, true where a query may "
            "attend, or floats, such as 0 and -inf, that are added to the scores."
        )
    return given


def _tensor(mask: object) -> Tensor:
    if not isinstance(mask, Tensor):
        raise InputError(f"mask is a {type(mask).__name__}; expected a tensor: torch.tensor(mask).")
    return mask
