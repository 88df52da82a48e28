"""Who asks a dataset for its windows: what has been put around it that it must know of.

Samplers and loaders of other libraries share windows among processes, and none of them asks first.
They can be told by who is on the call stack.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, Sampler

__all__ = ["Sharer", "collator", "dispatcher", "loader_that_shares", "sharer"]

# By which attribute it is known, whether it counts items once and for all.
COUNTS = {"num_replicas": True, "num_processes": False}  # DistributedSampler and kin; Accelerate


class Sharer(NamedTuple):
    """What gives each of `ranks` processes a part of a dataset.

    Attributes:
        name: of its class.
        ranks: how many processes.
        fixed: whether it goes by how many items there were when it was made.
    """

    name: str
    ranks: int
    fixed: bool


def sharer() -> Sharer | None:
    """The sampler or dataset among the callers that shares among several processes."""
    return _first_of(_askers())


def loader_that_shares() -> Sharer | None:
    """The sampler by which a loader among the callers shares, whatever dataset is between.

    A worker that was forked has the loader that started it among its callers too.
    """
    for asker in _askers():
        # That of batches, or of items where there are none; also of a loader's iterator.
        by = getattr(asker, "_index_sampler", None)
        if by is not None and (found := _first_of([by, getattr(by, "sampler", None)])):
            return found
    return None


def collator(dataset: Any) -> bool:
    """Whether a loader that makes batches of what it is given asks `dataset` itself."""
    asker = next((asker for asker in _askers() if asker is not dataset), None)
    return getattr(asker, "auto_collation", False) is True


def dispatcher() -> bool:
    """Whether Accelerate is among the callers, reading in one process for all of them."""
    return any(type(asker).__name__ == "DataLoaderDispatcher" for asker in _askers())


def _first_of(askers: Iterable[Any]) -> Sharer | None:
    for asker in askers:
        if isinstance(asker, (Sampler, IterableDataset)):
            for count, fixed in COUNTS.items():
                ranks = getattr(asker, count, None)
                if isinstance(ranks, int) and ranks > 1:
                    return Sharer(type(asker).__name__, ranks, fixed)
    return None


def _askers() -> Iterator[Any]:
    """The objects whose methods are being run, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        if "self" in frame.f_code.co_varnames[:1]:
            yield frame.f_locals.get("self")
        frame = frame.f_back  # type: ignore[assignment]
