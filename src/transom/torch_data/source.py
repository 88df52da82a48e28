"""Windows of a corpus in an order that depends on the seed alone: the base of both datasets."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transom.corpus import TokenCorpus
from transom.corpus.shuffle import Shuffle
from transom.errors import InputError
from transom.torch_data.shared import SharedNumbers
from transom.validation import whole_number
from transom.windows import TokenWindows

__all__ = ["State", "WindowSource", "unused"]

IGNORED = -100  # the label that losses of PyTorch ignore
AT_ONCE = 4096  # positions whose windows are computed together
State = dict[str, Any]  # as state_dict() returns it; fits into JSON

LARGEST = 2**62  # the largest position; positions have 64 bits


class WindowSource:
    """Windows by their position in the order, as tensors; and the state of a position.

    Args:
        corpus: is read as it is now; documents appended later are not seen.
        size, stride, settings: see `TokenCorpus.windows`; here windows do not overlap by default,
            so that every token comes once in an epoch.
        seed: seed of the order, any whole number; None for the order of the corpus.

    Raises:
        InputError: when there are no windows, or the seed is not a whole number.
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
        self.corpus = copy(corpus)  # The copy stays at this commit when `corpus` is refreshed.
        self.settings = {"size": size, "stride": stride, **settings}
        self.windows: TokenWindows = self.corpus.windows(**self.settings)
        if not len(self.windows):
            raise InputError(f"{corpus} has no windows of {size} ids; expected at least one.")
        self._ordered = SharedNumbers(windows=len(self.windows))
        self._order = Shuffle(len(self.windows), self.seed)
        self._known = _Stretch(self._order, -1)

    @property
    def order(self) -> Shuffle:
        """The order; after a state of a smaller corpus was loaded, that of its windows."""
        order, windows = self._order, self._ordered["windows"]
        if order.length != windows:  # in a worker, after load_state_dict in its process
            self._order = order = Shuffle(windows, self.seed)
        return order

    def batch(self, positions: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The windows at some positions, `(n, size)` int64 each, for a model of transformers.

        `labels` are the ids that count (see `score_mask` of `TokenWindow`), and -100 elsewhere.
        Packed windows have `position_ids` and no `attention_mask`: given both, a model of
        transformers lets one document see another.
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
        """The numbers of the windows at some positions, which count over all epochs."""
        order = self.order
        if order.seed is None or not len(positions):
            return order(positions)
        number = int(positions.min()) // AT_ONCE
        if int(positions.max()) // AT_ONCE != number:
            return order(positions)
        known = self._known
        if (known.order, known.number) != (order, number):  # another thread may replace it
            self._known = known = _Stretch(order, number)
        return known.windows[positions - number * AT_ONCE]

    def state(self, position: int) -> State:
        """The state of a position, for `position_of`: a few numbers that fit into JSON."""
        return {"position": position, "windows": self.order.length, "seed": self.seed}

    def position_of(self, state: State) -> int:
        """The position of a state; nothing is changed.

        Raises:
            InputError: when it is the state of another order, or not a state.
        """
        try:
            position, windows, seed = state["position"], state["windows"], state["seed"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"the state is {state!r:.80}; expected what state_dict() returned."
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

    def follow(self, state: State) -> int:
        """The position of a state; of a corpus that has grown since, only its windows are used.

        Raises:
            InputError: see `position_of`.
        """
        position = self.position_of(state)
        self._ordered["windows"] = int(state["windows"])
        return position

    def first_of(self, epoch: int, span: int, owner: str) -> int:
        """The position at which an epoch starts, when each has `span` windows.

        Raises:
            InputError: when the epoch is not a whole number from 0 on, or too large.
        """
        epoch = whole_number(owner, "epoch", epoch, 0, unit="epochs")
        if epoch * span > LARGEST:
            raise InputError(f"{owner}: epoch is {epoch}; expected at most {LARGEST // span}.")
        return epoch * span

    def __getstate__(self) -> dict[str, object]:
        left_out = {"windows": None, "_known": _Stretch(self._order, -1)}
        return {**self.__dict__, **left_out}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.windows = self.corpus.windows(**self.settings)


class _Stretch:
    """The windows of `AT_ONCE` positions of an order, from `number * AT_ONCE` on; -1 for none."""

    def __init__(self, order: Shuffle, number: int) -> None:
        self.order = order
        self.number = number
        first = number * AT_ONCE
        self.windows = order(np.arange(first, first + AT_ONCE * (number >= 0)))


def unused(loaded: int, epoch: int) -> InputError:
    """The error to raise when setting an epoch would lose a loaded position that was not used."""
    return InputError(
        f"a state of epoch {loaded} was loaded and nothing has been read since, so "
        f"set_epoch({epoch}) would lose it; call set_epoch({loaded}) first. Accelerate's loaders "
        f"call it too, with a count of their own: there, call set_epoch({loaded}) of the loader."
    )


def _checked_seed(seed: object) -> int | None:
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputError(
            f"dataset: shuffle_seed is {seed!r} ({type(seed).__name__}); expected a whole number, "
            "or None for the order of the corpus."
        )
    return int(seed)
