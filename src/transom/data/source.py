"""What both datasets are: windows of a corpus in an order that only the seed decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transom.checks import whole_number
from transom.corpus import TokenCorpus
from transom.corpus.shuffle import Shuffle
from transom.errors import InputError
from transom.windows import TokenWindows

__all__ = ["WindowSource", "share_of"]

IGNORED = -100  # the label that losses of PyTorch leave out
AT_ONCE = 4096  # places in the order that are computed together


class WindowSource:
    """Windows by their place in the order, as tensors; and the state that finds a place again.

    Args:
        corpus: as it is now; what is appended later is not seen.
        size, stride, settings: see `TokenCorpus.windows`; here windows do not overlap by default,
            so that every token comes once in an epoch.
        seed: of the order; None for the order they have in the corpus.

    Raises:
        InputError: when there are no windows.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        size: int,
        stride: int | None,
        seed: int | None,
        settings: dict[str, Any],
    ) -> None:
        if stride is None and settings.get("overlap") is None:
            settings = {**settings, "overlap": 0}
        self.corpus = corpus
        self.settings = {"size": size, "stride": stride, **settings}
        self.windows: TokenWindows = corpus.windows(**self.settings)
        if not len(self.windows):
            raise InputError(f"{corpus} has no windows of {size} ids; expected at least one.")
        self.order = Shuffle(len(self.windows), seed)
        self._known: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, positions: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The windows at some positions, `(n, size)` int64 each, for a model of transformers.

        `labels` are the ids that count (see `score_mask` of `TokenWindow`) and -100 elsewhere.
        """
        shape = len(positions), self.windows.cut.size
        ids = np.empty(shape, dtype=np.int64)
        scored = np.empty(shape, dtype=np.bool_)
        shown = np.empty(shape, dtype=np.int64)
        packed = self.windows.cut.packed
        places = np.empty(shape, dtype=np.int64) if packed else None
        self.windows.batch(self.numbers(positions), out=(ids, shown, scored, places))
        arrays = {
            "input_ids": ids,
            "attention_mask": shown,
            "labels": np.where(scored, ids, IGNORED),
        }
        if places is not None:
            arrays["position_ids"] = places
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which windows come at some positions, counted over all epochs."""
        if self.order.seed is None or not len(positions):
            return self.order(positions)
        stretch = int(positions.min()) // AT_ONCE
        if int(positions.max()) // AT_ONCE != stretch:
            return self.order(positions)
        if stretch != self._known[0]:
            first = stretch * AT_ONCE
            self._known = stretch, self.order(np.arange(first, first + AT_ONCE))
        return self._known[1][positions - stretch * AT_ONCE]

    def state(self, position: int) -> dict[str, Any]:
        """What `position_of` needs to go on from there: a few numbers, fit for JSON."""
        return {"position": position, "windows": self.order.length, "seed": self.order.seed}

    def position_of(self, state: dict[str, Any]) -> int:
        """The position that a state is of; a corpus that has grown since shows what it had.

        Raises:
            InputError: when the state is of another order, or is none.
        """
        try:
            position, windows, seed = state["position"], state["windows"], state["seed"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"a state is {state!r:.80}; expected what state_dict() returned."
            ) from error
        whole_number("state", "position", position, 0, unit="windows")
        grown = len(self.windows) > windows > 0 and not self.windows.cut.packed
        if seed != self.order.seed or not (windows == len(self.windows) or grown):
            raise InputError(
                f"the state is of {windows} windows in the order of seed {seed!r}, and this is of "
                f"{len(self.windows)} in that of {self.order.seed!r}; expected the settings and "
                "the corpus that it was taken with."
            )
        self.order = Shuffle(windows, seed)
        self._known = (-1, self._known[1])
        return int(position)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus,
            "settings": self.settings,
            "order": self.order,
            "_known": (-1, np.empty(0, dtype=np.int64)),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.windows = self.corpus.windows(**self.settings)


def share_of(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """Which share of the windows this process takes, of how many; by default what torch says.

    Raises:
        InputError: when only one is given, or they make no sense.
    """
    if rank is None and ranks is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed:
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    ranks = whole_number("dataset", "ranks", ranks, 1, unit="processes")
    rank = whole_number("dataset", "rank", rank, 0, unit="processes")
    if rank >= ranks:
        raise InputError(f"dataset: rank is {rank} of {ranks}; expected 0 to {ranks - 1}.")
    return rank, ranks
