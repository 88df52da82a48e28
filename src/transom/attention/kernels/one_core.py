"""One core for what torch computes in this thread, and in no other.

`torch.set_num_threads` would also change what every thread starts with that has not used torch
yet, the user's own among them. OpenMP and MKL themselves know numbers that belong to one thread.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["can_use_one_core", "use_one_core"]

NAMES = {"darwin": "libtorch_cpu.dylib", "win32": "torch_cpu.dll"}  # elsewhere as on Linux


def can_use_one_core() -> bool:
    """Whether this build of torch lets a thread be told so."""
    return bool(_setters())


def use_one_core() -> None:
    """From now on torch computes with one core in the thread that calls this, where it can."""
    torch.get_num_threads()  # a thread's first use of torch sets the default, so let that be over
    for setter in _setters():
        setter(1)


@cache
def _setters() -> tuple[Callable[[int], Any], ...]:
    """Functions of the libraries that this torch computes with; none where they are not found."""
    path = Path(torch.__file__).parent / "lib" / NAMES.get(sys.platform, "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(str(path))  # in this process already, with all that it needs
        openmp = library.omp_set_num_threads
    except (OSError, AttributeError):
        return ()
    mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)  # on x86 only
    return (openmp,) if mkl is None else (openmp, mkl)
