"""Layers that keep the tokens a policy scores highest."""

from transom.kv.scored.layer import ScoredLayer
from transom.kv.scored.rounds import Rounds

__all__ = ["Rounds", "ScoredLayer"]
