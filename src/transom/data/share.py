"""Which windows a process takes, of how many processes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.utils.data import get_worker_info

from transom.data.askers import loader_that_shares, sharer
from transom.data.shared import SharedNumbers
from transom.errors import InputError
from transom.validation import whole_number

__all__ = ["Share"]

logger = logging.getLogger("transom")


class Share:
    """The share of rank `rank` of `ranks`: as given, or else what `torch.distributed` says.

    It says so whenever it is asked, so a dataset may be made before the process group.

    Attributes:
        given: whether rank and ranks were.

    Raises:
        InputError: when only one of the two is given, or they make no sense.

    >>> Share(1, 2).now(), Share(None, None).now()
    ((1, 2), (0, 1))
    """

    def __init__(self, rank: int | None, ranks: int | None) -> None:
        self.given = rank is not None or ranks is not None
        if self.given:
            ranks = whole_number("dataset", "ranks", ranks, 1, unit="processes")
            rank = whole_number("dataset", "rank", rank, 0, unit="processes")
            if rank >= ranks:
                raise InputError(f"dataset: rank is {rank} of {ranks}; expected 0 to {ranks - 1}.")
        # `left_to`: processes among which somebody else shares; then this has everything.
        self._numbers = SharedNumbers(rank=rank or 0, ranks=ranks or 1, left_to=0)
        self._told = False

    def now(self) -> tuple[int, int]:
        """Rank and ranks; in a worker, those of the process that it works for."""
        if self._numbers["left_to"]:
            return 0, 1
        if not self.given:
            self._learn()
        return self._numbers["rank"], self._numbers["ranks"]

    @property
    def processes(self) -> int:
        """Among how many processes windows are shared, whoever does it."""
        return self._numbers["left_to"] or self.now()[1]

    def leave_to_callers(self, resumed: bool) -> None:
        """Have everything, where a sampler among the callers shares it among processes already.

        Args:
            resumed: whether an epoch is gone on with, so that there are more items in the next.

        Raises:
            InputError: when a share was given, and a part of it would go to each process; or when
                a sampler goes by how many items there were, and there will be more.
        """
        if not (found := sharer()):
            return
        if found.fixed and resumed:
            raise InputError(
                f"{found.name} counts items when it is made, but after load_state_dict fewer are "
                "left in the epoch. Do without it: the dataset shares its windows among ranks by "
                "itself. Or load no state here, and save and load a StatefulDistributedSampler's."
            )
        if self.now()[1] == 1 or not self.given:
            if self._numbers["left_to"] != found.ranks:
                logger.info("%s shares windows among %d processes", found.name, found.ranks)
            self._numbers["left_to"] = found.ranks
        elif found.ranks * self._numbers["ranks"] != _processes():
            raise self.twice(found.name, found.ranks)

    def refuse_loaders(self) -> None:
        """Refuse to be shared again by a loader that shares another dataset, made of this one.

        Nobody asked this one how long it is then, so it could not leave sharing to them.

        Raises:
            InputError: when a share is shared.
        """
        ranks = self.now()[1]
        if ranks > 1 and (found := loader_that_shares()) and found.ranks * ranks != _processes():
            raise self.twice(found.name, found.ranks)

    def twice(self, name: str, ranks: int) -> InputError:
        """The error that something else shares what is a share already."""
        mine = self.now()[1]
        return InputError(
            f"{name} would share among {ranks} processes what is already the share of one process "
            f"of {mine}, so some windows would never be read. Pass rank=0, ranks=1 here and leave "
            "sharing to it, or do without it."
        )

    def tell_uneven(self) -> None:
        """Note once, for whoever runs it, that ranks do not have equally many windows."""
        ranks = self.now()[1]
        if ranks > 1 and not (self.given or self._told):
            self._told = True
            logger.warning(
                "windows do not divide by %d ranks: some get fewer, and where all wait for each "
                "other at every step, they wait for ever. Pass drop_uneven=True.",
                ranks,
            )

    def _learn(self) -> None:
        if _distributed():
            self._numbers["rank"] = torch.distributed.get_rank()
            self._numbers["ranks"] = torch.distributed.get_world_size()
        elif get_worker_info() is None:  # a spawned worker knows only what it was told
            self._numbers["rank"], self._numbers["ranks"] = 0, 1

    def __getstate__(self) -> dict[str, Any]:
        self.refuse_loaders()  # A worker that is spawned knows
        self.now()  # neither who loads nor who it works for.
        return self.__dict__


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _processes() -> int:
    return torch.distributed.get_world_size() if _distributed() else 1
