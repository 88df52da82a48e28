"""Layers that keep the tokens a policy scores highest."""

from transom.kv.scored.layer import ScoredLayer
from transom.kv.scored.rounds import ScoredRounds

__all__ = ["ScoredLayer", "ScoredRounds"]
