"""Layers that keep the tokens a policy scores highest."""

from transom.kv.scored.layer import ScoredLayer
from transom.kv.scored.scored_planner import ScoredPlanner

__all__ = ["ScoredLayer", "ScoredPlanner"]
