"""What both datasets are: windows of a corpus in an order that only the seed decides."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transom.corpus import TokenCorpus
from transom.corpus.shuffle import Shuffle
from transom.data.shared import SharedNumbers
from transom.errors import InputError
from transom.validation import whole_number
from transom.windows import TokenWindows

__all__ = ["WindowSource", "unused"]

IGNORED = -100  # the label that losses of PyTorch leave out
AT_ONCE = 4096  # places in the order that are computed together
LARGEST = 2**62  # position: they are 64 bits wide


class WindowSource:
    """Windows by their place in the order, as tensors; and the state that finds a place again.

    Args:
        corpus: as it is now; what is appended later is not seen.
        size, stride, settings: see `TokenCorpus.windows`; here windows do not overlap by default,
            so that every token comes once in an epoch.
        seed: of the order, any whole number; None for the order they have in the corpus.

    Raises:
        InputError: when there are no windows, or on a seed that is none.
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
        self.seed = _checked_seed(seed)
        self.corpus = copy(corpus)  # which is of one commit, whatever is refreshed
        self.settings = {"size": size, "stride": stride, **settings}
        self.windows: TokenWindows = self.corpus.windows(**self.settings)
        if not len(self.windows):
            raise InputError(f"{corpus} has no windows of {size} ids; expected at least one.")
        self._ordered = SharedNumbers(windows=len(self.windows))
        self._order = Shuffle(len(self.windows), self.seed)
        self._known = _Stretch(self._order, -1)

    @property
    def order(self) -> Shuffle:
        """That of the windows there were at first, when a state of a smaller corpus was loaded."""
        order, windows = self._order, self._ordered["windows"]
        if order.length != windows:  # as after load_state_dict in the process we work for
            self._order = order = Shuffle(windows, self.seed)
        return order

    def batch(self, positions: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The windows at some positions, `(n, size)` int64 each, for a model of transformers.

        `labels` are the ids that count (see `score_mask` of `TokenWindow`) and -100 elsewhere.
        Packed windows have `position_ids` in place of `attention_mask`: given both, these models
        let one document see another.
        """
        shape = len(positions), self.windows.cut.size
        ids = np.empty(shape, dtype=np.int64)
        scored = np.empty(shape, dtype=np.bool_)
        shown = np.empty(shape, dtype=np.int64)
        packed = self.windows.cut.packed
        places = np.empty(shape, dtype=np.int64) if packed else None
        self.windows.batch(self.numbers(positions), out=(ids, shown, scored, places))
        arrays = {"input_ids": ids}
        if places is None:
            arrays["attention_mask"] = shown
        else:
            arrays["position_ids"] = places
        arrays["labels"] = np.where(scored, ids, IGNORED)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which windows come at some positions, counted over all epochs."""
        order = self.order
        if order.seed is None or not len(positions):
            return order(positions)
        number = int(positions.min()) // AT_ONCE
        if int(positions.max()) // AT_ONCE != number:
            return order(positions)
        known = self._known
        if (known.order, known.number) != (order, number):  # a thread may replace it meanwhile
            self._known = known = _Stretch(order, number)
        return known.windows[positions - number * AT_ONCE]

    def state(self, position: int) -> dict[str, Any]:
        """What `position_of` needs to go on from there: a few numbers, fit for JSON."""
        return {"position": position, "windows": self.order.length, "seed": self.seed}

    def position_of(self, state: dict[str, Any]) -> int:
        """The position that a state is of; nothing is changed.

        Raises:
            InputError: when the state is of another order, or is none.
        """
        try:
            position, windows, seed = state["position"], state["windows"], state["seed"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"a state is {state!r:.80}; expected what state_dict() returned."
            ) from error
        position = whole_number("state", "position", position, 0, unit="windows")
        windows = whole_number("state", "windows", windows, 1, unit="windows")
        if position > LARGEST:
            raise InputError(f"state: position is {position}; expected at most {LARGEST}.")
        grown = len(self.windows) > windows and not self.windows.cut.packed
        if seed != self.seed or not (windows == len(self.windows) or grown):
            raise InputError(
                f"the state is of {windows} windows in the order of seed {seed!r}, and this is of "
                f"{len(self.windows)} in that of {self.seed!r}; expected the settings and "
                "the corpus that it was taken with."
            )
        return position

    def follow(self, state: dict[str, Any]) -> int:
        """The position that a state is of; a corpus that has grown since shows what it had.

        Raises:
            InputError: as `position_of`.
        """
        position = self.position_of(state)
        self._ordered["windows"] = int(state["windows"])
        return position

    def first_of(self, epoch: int, span: int, owner: str) -> int:
        """The position where an epoch starts, when each has `span` windows.

        Raises:
            InputError: when it is no number of an epoch, or one that nobody will ever reach.
        """
        epoch = whole_number(owner, "epoch", epoch, 0, unit="epochs")
        if epoch * span > LARGEST:
            raise InputError(f"{owner}: epoch is {epoch}; expected at most {LARGEST // span}.")
        return epoch * span

    def __getstate__(self) -> dict[str, Any]:
        left_out = {"windows": None, "_known": _Stretch(self._order, -1)}
        return {**self.__dict__, **left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.windows = self.corpus.windows(**self.settings)


class _Stretch:
    """The windows at the places of stretch `number` of an order; -1 for none."""

    def __init__(self, order: Shuffle, number: int) -> None:
        self.order = order
        self.number = number
        first = number * AT_ONCE
        self.windows = order(np.arange(first, first + AT_ONCE * (number >= 0)))


def unused(loaded: int, epoch: int) -> InputError:
    """The error that setting an epoch would lose a loaded position that nothing has used."""
    return InputError(
        f"a state of epoch {loaded} was loaded and nothing has been read since, so "
        f"set_epoch({epoch}) would lose it; call set_epoch({loaded}) first. Accelerate's loaders "
        f"call it too, with a count of their own: there, call set_epoch({loaded}) of the loader."
    )


def _checked_seed(seed: Any) -> int | None:
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputError(
            f"dataset: shuffle_seed is {seed!r} ({type(seed).__name__}); expected a whole number, "
            "or None for the order that the windows have in the corpus."
        )
    return int(seed)
