"""What is measured under each policy: recall, loss, speed."""

from transom.evaluate.measures.base import Bench, Hooks, Measure
from transom.evaluate.measures.loss import Loss, RecomputedLoss, recomputed
from transom.evaluate.measures.recall import Recall
from transom.evaluate.measures.speed import RecomputedSpeed, Speed

__all__ = [
    "Bench",
    "Hooks",
    "Loss",
    "Measure",
    "Recall",
    "RecomputedLoss",
    "RecomputedSpeed",
    "Speed",
    "recomputed",
]
