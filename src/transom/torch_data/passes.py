"""Where each pass over a stream starts."""

from __future__ import annotations

from torch.utils.data import get_worker_info

from transom.errors import InputError
from transom.torch_data.shared import SharedNumbers

__all__ = ["Passes"]

HERE, NOBODY = -1, -2  # takers of a loaded position: this process, or nobody yet
WORKERS = 1024  # the most that a loader may have


class Passes:
    """Where each pass starts, for this process and for the workers of its loaders.

    A loaded position is the start of one pass, in all of its workers; every other pass starts at
    `start`. A pass by workers is identified by the seed that its loader gave them. A persistent
    worker notes that it has had its turn.
    """

    def __init__(self) -> None:
        # `loads` counts loaded positions. `taken` is the number of the last one that a pass took:
        # the pass of `taker` with `takers` workers. Both, as a later pass may have the same seed.
        self._numbers = SharedNumbers(
            start=0, loads=0, loaded=0, taken=0, taker=NOBODY, takers=0, workers=0
        )
        self._turns = SharedNumbers(**{str(slot): 0 for slot in range(WORKERS)})

    @property
    def start(self) -> int:
        """The position at which passes start."""
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
        """Start the next pass at `position`."""
        numbers = self._numbers
        numbers["loaded"] = position
        numbers["loads"] += 1
        numbers["workers"] = 0

    def forget(self) -> None:
        """Start the next pass where all others start, not at the loaded position."""
        self._numbers["taker"] = NOBODY
        self._numbers["taken"] = self._numbers["loads"]

    @property
    def by_workers(self) -> bool:
        """Whether workers began the last pass, so that this process does not know how far it is."""
        return bool(self._numbers["workers"])

    def begin(self) -> int:
        """Begin a pass, in this process; returns where it starts."""
        worker, numbers = get_worker_info(), self._numbers
        slot, taker = (0, HERE) if worker is None else (worker.id + 1, worker.seed - worker.id)
        takers = 0 if worker is None else worker.num_workers
        if slot >= WORKERS:
            raise InputError(f"a loader has a worker number {slot:,}; use at most {WORKERS}.")
        numbers["workers"] = int(worker is not None)
        loads = numbers["loads"]
        if numbers["taken"] < loads:  # all workers of a pass may do this at once
            numbers["taker"], numbers["takers"] = taker, takers
            numbers["taken"] = loads
        mine = (numbers["taker"], numbers["takers"]) == (taker, takers)
        if mine and self._turns[str(slot)] < loads:
            self._turns[str(slot)] = loads
            return numbers["loaded"]
        return numbers["start"]
