"""The plan of a forward pass under a policy by score."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from transom.kv.headwise_planner import HeadwisePlanner
from transom.policies import Scored

__all__ = ["ScoredPlanner"]


class ScoredPlanner(HeadwisePlanner[Scored]):
    """Groups the rows of a pass; how full heads are follows from how many tokens a row has seen."""

    def __getstate__(self) -> dict[str, object]:
        state = super().__getstate__()
        state.pop("mean_rotation_ahead", None)
        return state

    @cached_property
    def mean_rotation_ahead(self) -> Tensor:
        """`(rotary_dim / 2,)` complex: the mean rotation over the positions ahead, from the first.

        Over as many positions as the policy `expects`.
        """
        assert self.rotary is not None
        return self.rotary.cis(torch.arange(self.policy.expects, device="cpu")).mean(0)
