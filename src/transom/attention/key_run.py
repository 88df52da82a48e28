"""Kept keys that follow each other without a gap, so that block-sparse attention can take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.attention.patterns import Pattern, causal, sinks, sliding
from transom.attention.patterns import pattern as of_policy
from transom.attention.patterns.layout import ALIGNED
from transom.attention.patterns.shift import shifted
from transom.policies import Positional

__all__ = ["KeyRun", "key_run"]


class KeyRun(NamedTuple):
    """Local keys without a gap between their positions; the queries are at the last of them.

    Attributes:
        columns: where they are among all keys, in the order of their positions.
        length: how many there are.
        pattern: who sees whom among them; positions count from the first.
        hidden: `(q_len, pinned, filled up to a multiple of ALIGNED)` bool, which pinned keys a
            query does not see; these keys are no part of the run. None without pinned keys.
    """

    columns: Tensor | slice
    length: int
    pattern: Pattern
    hidden: Tensor | None


def key_run(
    policy: Positional, queries: Tensor, keys: Tensor, pattern: Pattern | None
) -> KeyRun | None:
    """The local keys as a run; None where they are not one.

    Args:
        policy: decides what is visible.
        queries: `(q_len,)` int64 positions.
        keys: `(kv_len,)` int64 positions in any order, 0 or more.
        pattern: what must let a key through besides; None for nothing.
    """
    pinned = policy.pinned
    positions, order = keys.sort()
    # The first queries may be pinned tokens themselves, and then come before the local keys.
    ahead = pinned if int(queries[0]) >= pinned else 0
    start = max(int(policy.local_start(queries[0])), ahead)
    begin = int(torch.searchsorted(positions, start))
    local = positions[begin:]
    if not len(local) or int(local[-1]) != int(queries[-1]):
        return None
    if int(local[-1] - local[0]) != len(local) - 1 or bool((queries.diff() != 1).any()):
        return None
    first = int(local[0])
    seen = _among_local(policy, queries, first)
    hidden = None
    if pinned:
        if not ahead:
            seen = seen & ~sinks(pinned)
        numbers = torch.arange(pinned, device=keys.device)
        hidden = numbers > queries[:, None]
    if pattern is not None:
        seen = seen & shifted(pattern, first)
        if hidden is not None:
            if pattern.batch or pattern.heads:
                return None
            hidden |= ~pattern.at(queries[:, None], numbers)[0, 0]
    if hidden is not None:
        hidden = F.pad(hidden, (0, -pinned % ALIGNED), value=True)
    columns: Tensor | slice = order[begin:]
    if bool((order[begin:].diff() == 1).all()):
        columns = slice(int(order[begin]), int(order[-1]) + 1)
    return KeyRun(columns, len(local), seen, hidden)


def _among_local(policy: Positional, queries: Tensor, first: int) -> Pattern:
    """What a policy lets be seen of local keys, when their positions count from `first`."""
    starts = policy.local_start(queries)
    if bool((starts.diff() == 1).all()):  # then every chunk of a text has the same pattern
        return sliding(int(queries[0] - starts[0]) + 1)
    if int(starts.max()) <= first:
        return causal()
    return shifted(of_policy(policy), first)
