"""The former name of `transom.torch_data`."""

import warnings

from transom.torch_data import WindowDataset, WindowStream

__all__ = ["WindowDataset", "WindowStream"]

warnings.warn(
    "transom.data is deprecated: import transom.torch_data instead.",
    DeprecationWarning,
    stacklevel=2,
)
