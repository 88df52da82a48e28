"""Windows in batches, pass after pass: an iterable dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from transom.corpus import TokenCorpus
from transom.data.askers import collator, dispatcher, sharer
from transom.data.passes import Passes
from transom.data.share import Share
from transom.data.source import WindowSource, unused
from transom.errors import InputError
from transom.validation import whole_number

__all__ = ["WindowStream"]

Batch = dict[str, torch.Tensor]


class WindowStream(IterableDataset[Batch]):
    """Batches of windows, epoch after epoch, in an order that only `shuffle_seed` decides.

    For `DataLoader(stream, batch_size=None, num_workers=...)`: each item is a batch, made by one
    gather, and any number of workers gives the same ones in the same order. A step of all ranks
    together has the same windows for any number of ranks, as long as it has as many. Ranks are
    shared here already, so nothing else should: no `prepare` of Accelerate.

    Each pass starts anew, whoever made the last one and wherever it stopped; only the one after
    `load_state_dict` starts at the loaded place. Workers know both, also `persistent_workers`.

    Args:
        corpus, size, stride, settings: see `TokenCorpus.windows`; by default windows do not
            overlap.
        batch_size: windows per batch of this rank.
        shuffle_seed: of the order, which is another in each epoch; None for that of the corpus.
        epochs: after how many a pass stops, with a batch that may be smaller; None for never.
        rank, ranks: which share this is, of how many; by default what `torch.distributed` says
            when a pass begins.
        drop_uneven: leave out the last windows of a pass that do not fill a step of all ranks, so
            that all have equally many batches of one size. Otherwise they come once too, and some
            ranks may have a smaller last batch, or none.

    A batch has `input_ids`, `labels` and `attention_mask`, or where packed `position_ids`,
    `(batch_size, size)` int64 each, as of `WindowDataset`; and `position`: how many windows all
    ranks have had by then, from which `state_after` makes the state to resume from.
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
        self._position: int | None = None  # of what this process gave out in its last pass

    def __iter__(self) -> Iterator[Batch]:
        self._refuse_loaders()
        position = self._passes.begin()
        self._position = position
        return WindowBatches(self, position, self._end)

    @property
    def _span(self) -> int:
        """Windows of a pass, or of an epoch where it does not end."""
        return (self._epochs or 1) * self._source.order.length

    @property
    def _end(self) -> int | None:
        """Where passes end that start where they do now."""
        return None if self._epochs is None else self._passes.start + self._span

    def _refuse_loaders(self) -> None:
        """Refuse what would give wrong batches.

        Raises:
            InputError: on a loader that batches batches or shares a share.
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
        """Have passes start at another epoch; where each has `epochs`, at that of pass `epoch`.

        A loaded place that lies there stays where the next pass starts.

        Raises:
            InputError: when it is no whole number, or before a state that was loaded and not used.
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

    def state_after(self, batch: Batch) -> dict[str, Any]:
        """What `load_state_dict` needs to go on after a batch, whoever made it.

        The same on all ranks, and good for any number of ranks and workers.
        """
        return self._state(int(batch["position"]))

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch that this object gave out: for `num_workers=0`.

        Raises:
            InputError: when it is workers who give them out, so that this cannot know.
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

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was taken, when the next pass begins.

        Raises:
            InputError: when the state is of other windows, or another seed.
        """
        position = self._source.position_of(state)
        span = state["windows"] * (self._epochs or 1)
        start = self._source.first_of(state.get("epoch", 0), span, "state")
        if not start <= position <= start + span and self._epochs is not None:
            start = (position - 1) // span * span  # as of a dataset, which notes no epoch
        self._source.follow(state)
        self._position = None
        self._passes.start = start
        if get_worker_info() is None:  # a worker is told of its own part by WindowBatches
            self._passes.load(position)

    def _state(self, position: int) -> dict[str, Any]:
        state = self._source.state(position)
        epoch = self._passes.start // self._span
        return {**state, "epoch": epoch} if epoch else state


class WindowBatches(Iterator[Batch]):
    """One pass, or a worker's part of it, from a position to an end.

    A loader that keeps the states of its workers, as torchdata's `StatefulDataLoader` does, keeps
    this one's.
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

    def state_dict(self) -> dict[str, Any]:
        """Where this part goes on: at which position, in steps of how many windows, to which."""
        state = self._stream._source.state(self._at)
        return {**state, "step": self._step, "end": self._end}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was taken.

        Raises:
            InputError: when it was taken by as many workers with other batches, or other ranks.
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
