"""Windows of a corpus as PyTorch datasets."""

from transom.torch_data.dataset import WindowDataset
from transom.torch_data.stream import WindowStream

__all__ = ["WindowDataset", "WindowStream"]
