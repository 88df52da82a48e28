"""Independent pieces of work on as many Python threads as torch may use cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from transom.attention.kernels.one_core import can_use_one_core, use_one_core

__all__ = ["share"]

T = TypeVar("T")


def share(
    work: Callable[[Iterable[T]], None],
    pieces: Sequence[T],
    device: torch.device,
    *,
    alone: bool = False,
) -> None:
    """Run `work` on all pieces: on a CPU, part of them on each of several threads.

    Small matrix products gain more from one thread each than from all threads together: nothing
    waits at their end, and a core that something else is using holds up no other. Within `work`
    gradients and autocast are off, and on several threads torch uses one core in each. Nothing is
    set outside the threads that are started here, and these end here.

    Args:
        alone: do it all in this thread, with all cores, as when it is too little to start threads
            for. So it is too where torch cannot be told how many cores a thread may use.
    """
    threads = min(torch.get_num_threads(), len(pieces)) if device.type == "cpu" else 1
    if alone or threads <= 1 or not can_use_one_core():
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            work(pieces)
        return
    inference = torch.is_inference_mode_enabled()
    failures: list[BaseException] = []

    def run(share: Sequence[T]) -> None:
        # All of these are settings of a thread, and a new one starts with the defaults.
        use_one_core()
        with torch.inference_mode(inference), torch.no_grad():
            try:
                work(share)
            except BaseException as error:
                failures.append(error)

    others = [threading.Thread(target=run, args=(pieces[n::threads],)) for n in range(threads)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    if failures:
        raise failures[0]
