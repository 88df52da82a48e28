"""Policies by position as patterns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transom.attention.patterns.base import Pattern
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.errors import InputError, PolicyError
from transom.policies import Policy, Positional, Span, parse
from transom.validation import known_keywords

__all__ = ["of_policy"]


@dataclass(frozen=True)
class _OfPolicy(Pattern):
    policy: Positional

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        visible: Tensor = self.policy.visible(q, k)
        return visible

    def tiles(self, grid: Grid) -> Tiles:
        # The start of a window never goes back, so the starts of the first and last query bound it.
        pinned, start = self.policy.pinned, self.policy.local_start
        first, last = start(grid.q_first), start(grid.q_last)
        some = (grid.k_first < pinned) | (grid.k_last >= first)
        every = (grid.k_last < pinned) | (grid.k_first >= last) | (last <= pinned)
        return Tiles(
            some & (grid.k_first <= grid.q_last),
            every & (grid.k_last <= grid.q_first),
        )

    def spans(self, query: int) -> tuple[Span, ...]:
        return self.policy.spans(query + 1)

    @property
    def scale(self) -> int:
        return 2 * (self.policy.capacity or 8)

    def __repr__(self) -> str:
        return f"pattern({str(self.policy)!r})"


@known_keywords
def of_policy(policy: Policy | str) -> Pattern:
    """What a policy by position lets each query see.

    Args:
        policy: the policy, or its text.

    Raises:
        InputError: if `policy` is neither.
        PolicyError: if the text is not a policy's, or the policy is not by position: what a policy
            by score keeps depends on the model.
    """
    made: object = parse(policy) if isinstance(policy, str) else policy
    if not isinstance(made, Policy):
        raise InputError(f"pattern: policy is {policy!r}; expected a policy or its text.")
    if not isinstance(made, Positional):
        raise PolicyError(
            f"{made} does not decide by position, so no pattern can say what it lets a query see; "
            "expected a policy by position, such as window, sinks or chunked."
        )
    return _OfPolicy(made)
