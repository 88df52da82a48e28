"""An iterable dataset of batches of windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from transom.corpus import TokenCorpus
from transom.errors import InputError
from transom.torch_data.askers import collator, dispatcher, sharer
from transom.torch_data.passes import Passes
from transom.torch_data.share import Share
from transom.torch_data.source import State, WindowSource, unused
from transom.validation import whole_number

__all__ = ["WindowStream"]

Batch = dict[str, torch.Tensor]


class WindowStream(IterableDataset[Batch]):
    """Batches of windows, epoch after epoch, in an order that depends on `shuffle_seed` alone.

    Use it as `DataLoader(stream, batch_size=None, num_workers=...)`: each item is a batch, made by
    one gather. Any number of workers gives the same batches in the same order. One step of all
    ranks has the same windows for any number of ranks, if ranks times batch size stay the same.
    The stream shares windows among ranks by itself: do not use `prepare` of Accelerate.

    Each pass starts anew, wherever the last one stopped; only the pass after `load_state_dict`
    starts at the loaded place. Workers know both, also under `persistent_workers`.

    Args:
        corpus, size, stride, settings: see `TokenCorpus.windows`; by default windows do not
            overlap.
        batch_size: windows per batch of this rank.
        shuffle_seed: seed of the order, which differs in each epoch; None for the order of the
            corpus.
        epochs: how many epochs a pass has; its last batch may be smaller. None for no end.
        rank, ranks: which share this is, of how many; by default what `torch.distributed` says
            when a pass begins.
        drop_uneven: leave out the last windows of a pass when they do not fill a step of all
            ranks, so that all ranks have equally many batches of one size. Otherwise these come
            too, and some ranks may have a smaller last batch, or none.

    A batch has `input_ids`, `labels` and `attention_mask` (or `position_ids` when packed),
    `(batch_size, size)` int64 each, as in `WindowDataset`. Its `position` says how many windows
    all ranks have had after it; `state_after` makes a state of that.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        size: int = 512,
        *,
        batch_size: int = 64,
        stride: int | None = None,
        shuffle_seed: int | None = None,
        epochs: int | None = None,
        rank: int | None = None,
        ranks: int | None = None,
        drop_uneven: bool = False,
        **settings: Any,
    ) -> None:
        self._batch_size = whole_number("WindowStream", "batch_size", batch_size, 1, unit="windows")
        if epochs is not None:
            epochs = whole_number("WindowStream", "epochs", epochs, 1, unit="epochs")
        self._epochs = epochs
        self._source = WindowSource(corpus, size, stride, shuffle_seed, settings)
        self._share = Share(rank, ranks)
        self._drop_uneven = drop_uneven
        self._passes = Passes()
        self._position: int | None = None  # after the last batch that this process returned

    def __iter__(self) -> Iterator[Batch]:
        self._refuse_loaders()
        position = self._passes.begin()
        self._position = position
        return WindowBatches(self, position, self._end)

    @property
    def _span(self) -> int:
        """Windows of a pass, or of an epoch when passes do not end."""
        return (self._epochs or 1) * self._source.order.length

    @property
    def _end(self) -> int | None:
        """The position at which a pass ends; None for no end."""
        return None if self._epochs is None else self._passes.start + self._span

    def _refuse_loaders(self) -> None:
        """Refuse loaders that would give wrong batches.

        Raises:
            InputError: when a loader makes batches of batches, or shares a share again.
        """
        if collator(self):
            raise InputError(
                "a loader would make batches of batches: each item of a stream is one already. "
                "Pass batch_size=None to the DataLoader, and batch_size to the stream."
            )
        if dispatcher():
            raise InputError(
                "Accelerate would read in one process for all of them, and a stream gives each "
                "rank its share by itself; use the DataLoader as it is, without prepare()."
            )
        if self._share.now()[1] > 1 and (found := sharer()):
            raise self._share.twice(found.name, found.ranks)

    def set_epoch(self, epoch: int) -> None:
        """Start passes at another epoch; when passes end, `epoch` counts passes.

        A loaded place within that pass stays the start of the next pass.

        Raises:
            InputError: when it is not a whole number, or is before a state that was loaded and not
                used yet.
        """
        start = self._source.first_of(epoch, self._span, type(self).__name__)
        loaded = self._passes.loaded
        if loaded is not None and not start <= loaded <= start + self._span:
            if loaded < start:
                self._passes.forget()
            else:
                raise unused(loaded // self._span, epoch)
        self._passes.start = start
        self._position = None

    def state_after(self, batch: Batch) -> State:
        """The state for `load_state_dict` after a batch, whichever process made it.

        It is the same on all ranks, and works for any number of ranks and workers.
        """
        return self._state(int(batch["position"]))

    def state_dict(self) -> State:
        """The state after the last batch that this object returned, for `num_workers=0`.

        Raises:
            InputError: when workers return the batches, so that this object does not know.
        """
        passes = self._passes
        if get_worker_info() is None and passes.by_workers:
            raise InputError(
                "batches come from workers, which make some before they are asked for; take "
                "state_after(batch) of the last one used, or state_dict() of a StatefulDataLoader."
            )
        if self._position is not None:
            return self._state(self._position)
        return self._state(passes.start if passes.loaded is None else passes.loaded)

    def load_state_dict(self, state: State) -> None:
        """Continue where a state was taken, when the next pass begins.

        Raises:
            InputError: when the state is of other windows, or of another seed.
        """
        position = self._source.position_of(state)
        span = state["windows"] * (self._epochs or 1)
        start = self._source.first_of(state.get("epoch", 0), span, "state")
        if not start <= position <= start + span and self._epochs is not None:
            start = (position - 1) // span * span  # a state of a WindowDataset, which has no epoch
        self._source.follow(state)
        self._position = None
        self._passes.start = start
        if get_worker_info() is None:  # a worker gets its part through WindowBatches
            self._passes.load(position)

    def _state(self, position: int) -> State:
        state = self._source.state(position)
        epoch = self._passes.start // self._span
        return {**state, "epoch": epoch} if epoch else state


class WindowBatches(Iterator[Batch]):
    """One pass, or a worker's part of it, from a position to an end.

    A loader that saves the states of its workers, such as torchdata's `StatefulDataLoader`, saves
    the state of this.
    """

    def __init__(self, stream: WindowStream, position: int, end: int | None) -> None:
        worker = get_worker_info()
        first, self._workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self._stream = stream
        self._rank, self._ranks = stream._share.now()
        self._step = stream._batch_size * self._ranks
        self._at = position + first * self._step
        self._end = end
        if end is None:
            return
        if not stream._drop_uneven:
            if (end - position) % self._step:
                stream._share.tell_uneven()
        elif stream._span < self._step:
            raise InputError(
                f"{stream._span:,} windows of a pass fill no step of {self._ranks} ranks by "
                f"{stream._batch_size} windows; expected a smaller batch_size, or no drop_uneven."
            )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        stream, at, after = self._stream, self._at, self._at + self._step
        positions = at + np.arange(self._rank, self._step, self._ranks, dtype=np.int64)
        if self._end is not None and after > self._end:
            positions = positions[positions < self._end]
            after = self._end
            if stream._drop_uneven or not len(positions):
                raise StopIteration
        self._at += self._step * self._workers
        batch = stream._source.batch(positions)
        batch["position"] = torch.tensor(after, device="cpu")
        stream._position = after
        return batch

    def state_dict(self) -> State:
        """Where this part continues: its position, the windows of a step, and where it ends."""
        state = self._stream._source.state(self._at)
        return {**state, "step": self._step, "end": self._end}

    def load_state_dict(self, state: State) -> None:
        """Continue where a state was taken.

        Raises:
            InputError: when it was taken with another batch size, or another number of ranks.
        """
        position = self._stream._source.position_of(state)
        if state.get("step") != self._step:
            raise InputError(
                f"the state is from a worker that took {state.get('step')} windows in a step, and "
                f"here a step takes {self._step}: a batch of {self._stream._batch_size} for each "
                f"of {self._ranks} ranks. Use the former batch_size and number of ranks, or load a "
                "state that state_after(batch) gave."
            )
        self._at, self._end = position, state["end"]
        self._stream._source.follow(state)
        self._stream._position = position
