"""Running windows of token ids, and texts cut into windows; numpy only."""

from transom.windows.base import MaskedIds, TokenState
from transom.windows.batch import Batch, TokenWindow
from transom.windows.chunked import MemoryEfficientContext
from transom.windows.context import ContextWindow
from transom.windows.cut import Cut
from transom.windows.factory import ContextWindowFactory
from transom.windows.hierarchical import HierarchicalContext, HierarchicalIds
from transom.windows.sliding import SlidingWindow
from transom.windows.strided import TokenWindows

__all__ = [
    "Batch",
    "ContextWindow",
    "ContextWindowFactory",
    "Cut",
    "HierarchicalContext",
    "HierarchicalIds",
    "MaskedIds",
    "MemoryEfficientContext",
    "SlidingWindow",
    "TokenState",
    "TokenWindow",
    "TokenWindows",
]
