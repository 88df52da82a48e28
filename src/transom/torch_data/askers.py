"""Finds the samplers and loaders that call a dataset, by looking at the call stack.

Samplers and loaders of other libraries share a dataset's windows among processes without asking
the dataset. It must know of them, and the call stack is the only place where they show.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch.utils.data import IterableDataset, Sampler

__all__ = ["Sharer", "collator", "dispatcher", "loader_that_shares", "sharer"]

# The attribute with the number of processes, and whether items are counted only at the start.
COUNTS = {"num_replicas": True, "num_processes": False}  # DistributedSampler; Accelerate


class Sharer(NamedTuple):
    """A sampler or loader that gives each of `ranks` processes a part of a dataset.

    Attributes:
        name: name of its class.
        ranks: how many processes.
        fixed: whether it counts the items only when it is made.
    """

    name: str
    ranks: int
    fixed: bool


def sharer() -> Sharer | None:
    """The sampler or dataset among the callers that shares windows among several processes."""
    return _first_of(_askers())


def loader_that_shares() -> Sharer | None:
    """The sampler by which a loader among the callers shares, even through another dataset.

    A forked worker also has the loader that started it among its callers.
    """
    for asker in _askers():
        # The batch sampler, or the sampler of items without one; loader iterators have it too.
        by = getattr(asker, "_index_sampler", None)
        if by is not None and (found := _first_of([by, getattr(by, "sampler", None)])):
            return found
    return None


def collator(dataset: object) -> bool:
    """Whether the direct caller of `dataset` is a loader that makes batches of its items."""
    asker = next((asker for asker in _askers() if asker is not dataset), None)
    return getattr(asker, "auto_collation", False) is True


def dispatcher() -> bool:
    """Whether Accelerate is among the callers and reads in one process for all of them."""
    return any(type(asker).__name__ == "DataLoaderDispatcher" for asker in _askers())


def _first_of(askers: Iterable[object]) -> Sharer | None:
    for asker in askers:
        if isinstance(asker, (Sampler, IterableDataset)):
            for count, fixed in COUNTS.items():
                ranks = getattr(asker, count, None)
                if isinstance(ranks, int) and ranks > 1:
                    return Sharer(type(asker).__name__, ranks, fixed)
    return None


def _askers() -> Iterator[object]:
    """The objects whose methods are running, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        if "self" in frame.f_code.co_varnames[:1]:
            yield frame.f_locals.get("self")
        frame = frame.f_back  # type: ignore[assignment]
