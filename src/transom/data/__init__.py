"""Windows of a corpus as PyTorch datasets."""

from transom.data.dataset import WindowDataset
from transom.data.stream import WindowStream

__all__ = ["WindowDataset", "WindowStream"]
