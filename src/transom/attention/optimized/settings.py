"""Checks of what `OptimizedAttention` is made with: heads, patterns, rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from transom.attention.patterns import Pattern, causal, head_groups
from transom.attention.patterns import pattern as of_policy
from transom.attention.rotary import Rotary
from transom.errors import InputError
from transom.policies import Policy, parse
from transom.validation import whole_number

__all__ = ["Heads", "read_heads", "read_patterns", "read_rotary"]

NAME = "OptimizedAttention"


class Heads(NamedTuple):
    """The number of query heads and of kv heads, and the dimensions of a head."""

    queries: int
    keys: int
    dim: int


def read_heads(hidden_size: int, queries: int, keys: int | None, dim: int | None) -> Heads:
    """Heads that fit together; by default as many kv heads as query heads.

    Raises:
        InputError: if they do not fit together.
    """
    hidden_size = whole_number(NAME, "hidden_size", hidden_size, 1, unit="dimensions")
    queries = whole_number(NAME, "num_heads", queries, 1, unit="heads")
    keys = whole_number(NAME, "num_kv_heads", queries if keys is None else keys, 1, unit="heads")
    if queries % keys:
        raise InputError(
            f"{NAME}: num_heads is {queries} and num_kv_heads {keys}; expected num_heads to be a "
            "multiple of num_kv_heads."
        )
    if dim is None and hidden_size % queries:
        raise InputError(
            f"{NAME}: hidden_size {hidden_size} is not a multiple of num_heads {queries}; give "
            "head_dim, or another number of heads."
        )
    dim = hidden_size // queries if dim is None else dim
    return Heads(queries, keys, whole_number(NAME, "head_dim", dim, 1, unit="dimensions"))


def read_patterns(
    pattern: object,
    streaming: object,
    streaming_heads: Sequence[bool] | Tensor | None,
    heads: int,
) -> Pattern | None:
    """The pattern of all heads; None if none was given.

    Args:
        pattern: a `Pattern`, a `Policy` or its text; `causal()` for the other heads by default, if
            there are streaming heads.
        streaming: the pattern of the streaming heads; a `Pattern`, a `Policy` or its text.
        streaming_heads: `(heads,)` bools, true for the streaming heads.
        heads: how many query heads there are.

    Raises:
        InputError: if something is not a pattern, or is for another number of heads.
        PolicyError: if a text is not a policy's.
    """
    result = _pattern("pattern", pattern)
    if (streaming is None) != (streaming_heads is None):
        given, missing = "streaming_heads", "streaming_pattern"
        if streaming_heads is None:
            given, missing = missing, given
        raise InputError(f"{NAME}: {given} was given without {missing}; expected both or neither.")
    second = _pattern("streaming_pattern", streaming)
    for name, each in (("pattern", result), ("streaming_pattern", second)):
        if each is not None and each.heads not in (None, heads):
            raise InputError(
                f"{NAME}: {name} is for {each.heads} heads; expected {heads}, which is num_heads."
            )
    if second is None:
        return result
    choice = torch.as_tensor(streaming_heads, device="cpu")
    if choice.dtype != torch.bool or tuple(choice.shape) != (heads,):
        raise InputError(
            f"{NAME}: streaming_heads has shape {tuple(choice.shape)} and dtype {choice.dtype}; "
            f"expected ({heads},) bool, one for each head."
        )
    return head_groups([result or causal(), second], choice.int().tolist())


def read_rotary(rotary: object, head_dim: int, theta: float) -> Rotary | None:
    """The rotary positions of a layer; None if it has none.

    Args:
        rotary: True for plain rotary positions over the whole head, False for none, or a `Rotary`.
        theta: base of the plain rotary positions.

    Raises:
        InputError: if they do not fit the head.
    """
    if rotary is False:
        return None
    if isinstance(rotary, Rotary):
        if rotary.dim > head_dim:
            raise InputError(
                f"{NAME}: rotary rotates {rotary.dim} dimensions and a head has {head_dim}; "
                f"expected at most {head_dim}."
            )
        return rotary
    if rotary is not True:
        raise InputError(
            f"{NAME}: rotary is {rotary!r} ({type(rotary).__name__}); expected True, False or a "
            "Rotary."
        )
    if head_dim % 2:
        raise InputError(
            f"{NAME}: head_dim is {head_dim}; expected an even number, because rotary positions "
            "rotate pairs of dimensions."
        )
    if not theta > 0:
        raise InputError(f"{NAME}: rope_theta is {theta}; expected more than 0.")
    # In float32 first, like transformers, so that a cache made from a config has the same numbers.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return Rotary((1 / theta**exponents).double())


def _pattern(name: str, value: object) -> Pattern | None:
    if isinstance(value, str):
        value = parse(value)
    if isinstance(value, Policy):
        value = of_policy(value)
    if value is None or isinstance(value, Pattern):
        return value
    raise InputError(
        f"{NAME}: {name} is {value!r} ({type(value).__name__}); expected a Pattern, a Policy, a "
        "policy's text such as 'sinks:4,window=1020', or None."
    )
