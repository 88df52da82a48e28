"""Where passes over a stream start."""

from __future__ import annotations

from torch.utils.data import get_worker_info

from transom.data.shared import SharedNumbers
from transom.errors import InputError

__all__ = ["Passes"]

HERE, NOBODY = -1, -2  # who took a loaded position, where it is no loader with workers
WORKERS = 1024  # most of a loader


class Passes:
    """Where each pass starts, for this process and for the workers of its loaders.

    A position that was loaded is where one pass starts, in all of its workers; every other pass
    starts at `start`. A pass by workers is known by the seed that its loader gave them, and a
    worker that lives on notes that it has had its turn.
    """

    def __init__(self) -> None:
        # `loads` counts them; `taken` is the number of the last one that a pass by `taker` took,
        # in which there are `takers`: a later one with more workers may have the same seed.
        self._numbers = SharedNumbers(
            start=0, loads=0, loaded=0, taken=0, taker=NOBODY, takers=0, workers=0
        )
        self._turns = SharedNumbers(**{str(slot): 0 for slot in range(WORKERS)})

    @property
    def start(self) -> int:
        """The position where passes start."""
        return self._numbers["start"]

    @start.setter
    def start(self, position: int) -> None:
        self._numbers["start"] = position
        self._numbers["workers"] = 0

    @property
    def loaded(self) -> int | None:
        """The position that was loaded, until a pass has started there."""
        numbers = self._numbers
        return numbers["loaded"] if numbers["taken"] < numbers["loads"] else None

    def load(self, position: int) -> None:
        """Start the next pass there."""
        numbers = self._numbers
        numbers["loaded"] = position
        numbers["loads"] += 1
        numbers["workers"] = 0

    def forget(self) -> None:
        """Start the next pass where all others start."""
        self._numbers["taker"] = NOBODY
        self._numbers["taken"] = self._numbers["loads"]

    @property
    def by_workers(self) -> bool:
        """Whether workers have begun the last pass, so that nobody here knows how far it is."""
        return bool(self._numbers["workers"])

    def begin(self) -> int:
        """Begin a pass, in this process; returns where it starts."""
        worker, numbers = get_worker_info(), self._numbers
        slot, taker = (0, HERE) if worker is None else (worker.id + 1, worker.seed - worker.id)
        takers = 0 if worker is None else worker.num_workers
        if slot >= WORKERS:
            raise InputError(f"a loader has a worker number {slot:,}; expected at most {WORKERS}.")
        numbers["workers"] = int(worker is not None)
        loads = numbers["loads"]
        if numbers["taken"] < loads:  # all workers of a pass may come here at once, and agree
            numbers["taker"], numbers["takers"] = taker, takers
            numbers["taken"] = loads
        mine = (numbers["taker"], numbers["takers"]) == (taker, takers)
        if mine and self._turns[str(slot)] < loads:
            self._turns[str(slot)] = loads
            return numbers["loaded"]
        return numbers["start"]
