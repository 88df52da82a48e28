"""The plan of a forward pass under a policy by score."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from transom.kv.headwise_planner import HeadwisePlanner
from transom.policies import Scored

__all__ = ["ScoredPlanner"]


class ScoredPlanner(HeadwisePlanner[Scored]):
    """Where each row stands: how full its heads are follows from how many tokens it has seen."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("ahead", None)
        return state

    @cached_property
    def ahead(self) -> Tensor:
        """`(rotary_dim / 2,)` complex: the mean turn over the coming positions, from the first."""
        assert self.rotary is not None
        return self.rotary.cis(torch.arange(self.policy.expects, device="cpu")).mean(0)
