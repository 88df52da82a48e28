"""What `OptimizedAttention` is made with: heads, patterns, rotary positions; checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from transom.attention.patterns import Pattern, causal, head_groups
from transom.attention.patterns import pattern as of_policy
from transom.attention.rotary import Rotary
from transom.errors import InputError
from transom.policies import Policy, parse
from transom.validation import whole_number

__all__ = ["Heads", "read_heads", "read_patterns", "read_rotary"]

NAME = "OptimizedAttention"


class Heads(NamedTuple):
    """How many heads of queries and of keys, and the dimensions of each."""

    queries: int
    keys: int
    dim: int


def read_heads(hidden_size: Any, queries: Any, keys: Any, dim: Any) -> Heads:
    """Heads that fit together; `keys` and `dim` may be None.

    Raises:
        InputError: when they do not.
    """
    hidden_size = whole_number(NAME, "hidden_size", hidden_size, 1, unit="dimensions")
    queries = whole_number(NAME, "num_heads", queries, 1, unit="heads")
    keys = whole_number(NAME, "num_kv_heads", queries if keys is None else keys, 1, unit="heads")
    if queries % keys:
        raise InputError(
            f"{NAME}: num_heads is {queries} and num_kv_heads {keys}; expected a number of heads "
            "that is a multiple of the number of kv heads."
        )
    if dim is None and hidden_size % queries:
        raise InputError(
            f"{NAME}: hidden_size {hidden_size} is no multiple of num_heads {queries}; give "
            "head_dim, or another number of heads."
        )
    dim = hidden_size // queries if dim is None else dim
    return Heads(queries, keys, whole_number(NAME, "head_dim", dim, 1, unit="dimensions"))


def read_patterns(pattern: Any, streaming: Any, streaming_heads: Any, heads: int) -> Pattern | None:
    """One pattern for all heads; None when none was given.

    Args:
        streaming: the pattern of the heads that `streaming_heads`, `(heads,)` bools, are true for.

    Raises:
        InputError: when something is no pattern, or not for so many heads.
        PolicyError: when a text is not a policy's.
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
                f"{NAME}: {name} is for {each.heads} heads; expected {heads}, as num_heads."
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


def read_rotary(rotary: Any, head_dim: int, theta: float) -> Rotary | None:
    """Plain rotary positions over the whole head for True, none for False, or those given.

    Raises:
        InputError: when they do not fit the head.
    """
    if rotary is False:
        return None
    if isinstance(rotary, Rotary):
        if rotary.dim > head_dim:
            raise InputError(
                f"{NAME}: rotary turns {rotary.dim} dimensions and a head has {head_dim}; expected "
                "no more than that."
            )
        return rotary
    if rotary is not True:
        raise InputError(
            f"{NAME}: rotary is {rotary!r} ({type(rotary).__name__}); expected True, False or a "
            "Rotary."
        )
    if head_dim % 2:
        raise InputError(
            f"{NAME}: head_dim is {head_dim}; rotary positions turn pairs, so expected an even one."
        )
    if not theta > 0:
        raise InputError(f"{NAME}: rope_theta is {theta}; expected more than 0.")
    # In float32 first, as transformers does, so that a cache made from a config agrees.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return Rotary((1 / theta**exponents).double())


def _pattern(name: str, value: Any) -> Pattern | None:
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
