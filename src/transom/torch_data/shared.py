"""Numbers in memory that a process shares with the workers of its loaders."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from transom.errors import InputError

__all__ = ["SharedNumbers"]


class SharedNumbers:
    """Whole numbers by name, in memory that a process shares with the workers of its loaders.

    A worker gets its dataset when it starts, and may live for many epochs; it sees what is set
    here later. Any other process that gets a dataset, such as another rank, has its own numbers
    from then on. So does a copy made by pickle or `copy.deepcopy`.

    Raises:
        InputError: when the system has no shared memory.

    >>> numbers = SharedNumbers(start=0, windows=7)
    >>> numbers["start"] = 3
    >>> numbers["start"] + numbers["windows"]
    10
    """

    def __init__(self, **numbers: int) -> None:
        self._places = {name: place for place, name in enumerate(numbers)}
        # On the CPU, whatever the default device is.
        self._keep(torch.tensor([*numbers.values()], dtype=torch.int64, device="cpu"))

    def __getitem__(self, name: str) -> int:
        return int(self._mine()[self._places[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self._mine()[self._places[name]] = value

    def _mine(self) -> NDArray[np.int64]:
        if os.getpid() != self._process and get_worker_info() is None:
            self._keep(self._tensor.clone())
        return self._values

    def _keep(self, tensor: torch.Tensor) -> None:
        self._process = os.getpid()
        try:
            self._tensor = tensor.share_memory_()
        except RuntimeError as error:
            raise InputError(
                f"a dataset needs a little shared memory, for the workers of loaders: {error}. "
                "Give this system or container some, such as a /dev/shm."
            ) from error
        self._values: NDArray[np.int64] = self._tensor.numpy()

    def __getstate__(self) -> dict[str, object]:
        # To a spawned process, torch gives the memory of a tensor and not a copy.
        self._mine()
        return {"places": self._places, "tensor": self._tensor, "process": self._process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._places = state["places"]
        if state["tensor"].is_shared():
            self._process, self._tensor = state["process"], state["tensor"]
            self._values = self._tensor.numpy()
        else:
            self._keep(state["tensor"])
