"""Independent pieces of work, shared among as many Python threads as torch may use cores."""

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
    """Run `work` on all pieces; on a CPU, each of several threads gets a part of them.

    Small matrix products are faster with one thread each than with all threads together: no thread
    waits for the others, and a core that is busy with something else delays only itself. Inside
    `work`, gradients and autocast are off; if there are several threads, torch uses one core in
    each. The threads end before this returns, and no setting of other threads changes.

    Args:
        work: called with some of the pieces; several calls may run at once.
        device: where the work is computed.
        alone: do everything in this thread, with all cores, because there is too little work to
            start threads for. This also happens if torch cannot limit the cores of a thread.

    Raises:
        BaseException: the first error that `work` raised in a thread, once all threads ended.
    """
    threads = min(torch.get_num_threads(), len(pieces)) if device.type == "cpu" else 1
    if alone or threads <= 1 or not can_use_one_core():
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            work(pieces)
        return
    inference = torch.is_inference_mode_enabled()
    failures: list[BaseException] = []

    def run(share: Sequence[T]) -> None:
        # These settings belong to a thread, and a new thread starts with the defaults.
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
