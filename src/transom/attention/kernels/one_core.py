"""Limit torch to one core in this thread, and in no other.

`torch.set_num_threads` also changes the default of every thread that has not used torch yet, such
as the user's own threads. OpenMP and MKL can set the number of cores of one thread.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

__all__ = ["can_use_one_core", "use_one_core"]

NAMES = {"darwin": "libtorch_cpu.dylib", "win32": "torch_cpu.dll"}  # else libtorch_cpu.so


def can_use_one_core() -> bool:
    """Whether this build of torch has a number of cores for each thread."""
    return bool(_setters())


def use_one_core() -> None:
    """From now on torch uses one core in the calling thread, if `can_use_one_core`."""
    torch.get_num_threads()  # the first use of torch in a thread sets the default: do that now
    for setter in _setters():
        setter(1)


@cache
def _setters() -> tuple[Callable[[int], object], ...]:
    """The functions of OpenMP and MKL that set the cores of a thread; none if not found."""
    path = Path(torch.__file__).parent / "lib" / NAMES.get(sys.platform, "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(str(path))  # this process has already loaded it
        openmp = library.omp_set_num_threads
    except (OSError, AttributeError):
        return ()
    mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)  # only on x86
    return (openmp,) if mkl is None else (openmp, mkl)
