"""Windows by number, in an order of their own: a map-style dataset."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from transom.corpus import TokenCorpus
from transom.data.share import Share
from transom.data.shared import SharedNumbers
from transom.data.source import WindowSource, unused
from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["WindowDataset"]


@known_keywords
class WindowDataset(Dataset[dict[str, torch.Tensor]]):
    """One epoch of windows, shuffled by `shuffle_seed`, of which each rank has its share.

    An item has `input_ids`, `labels` and `attention_mask`, or where packed `position_ids`,
    `(size,)` int64 each: what a causal model of transformers takes. By `position_ids` it keeps
    documents apart only with `use_cache=False`, which its `Trainer` sets. An item is the same
    whatever asks for it, so any number of workers gives the same batches. Over all ranks every
    window comes once: rank `r` of `n` has each n-th, from the r-th on, so that a step of all of
    them has the same windows for any number of ranks.

    Epoch and position are known to workers too, also to those of `persistent_workers`. Where a
    `DistributedSampler` or Accelerate shares the items among processes already, as trainers have
    it by default, this leaves it to them and has all of them. For a `Subset`, which they would
    share without asking here, pass `rank=0, ranks=1`; without it that is refused.

    Args:
        corpus, size, stride, settings: see `TokenCorpus.windows`; by default windows do not
            overlap.
        shuffle_seed: of the order, which is another in each epoch; None for that of the corpus.
        rank, ranks: which share this is, of how many; by default what `torch.distributed` says
            when items are asked for.
        drop_uneven: leave out the last windows of an epoch, fewer than there are ranks, so that
            all ranks have equally many; otherwise some have one more than others.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/books"
    >>> with TokenCorpus.create(folder, vocab_size=50_000) as writer:
    ...     writer.add_document(range(8))
    >>> dataset = TokenCorpus.open(folder).torch_dataset(4, shuffle_seed=7)
    >>> len(dataset), dataset[0]["input_ids"]
    (2, tensor([4, 5, 6, 7]))
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        size: int = 512,
        *,
        stride: int | None = None,
        shuffle_seed: int | None = None,
        rank: int | None = None,
        ranks: int | None = None,
        drop_uneven: bool = False,
        **settings: Any,
    ) -> None:
        self._source = WindowSource(corpus, size, stride, shuffle_seed, settings)
        self._share = Share(rank, ranks)
        self._drop_uneven = drop_uneven
        # Where the epoch under way starts; whether that was loaded, and used since.
        self._place = SharedNumbers(start=0, loaded=0, used=0)

    def __len__(self) -> int:
        self._share.leave_to_callers(resumed=self._place["start"] % self._source.order.length > 0)
        return self._items()

    def _items(self) -> int:
        rank, ranks = self._share.now()
        length = self._source.order.length
        left = length - self._place["start"] % length
        if self._drop_uneven:
            if length < ranks:
                raise InputError(
                    f"{length:,} windows are too few to give each of {ranks} ranks an item; "
                    "expected more windows, or drop_uneven=False."
                )
            return left // ranks
        if left % ranks:
            self._share.tell_uneven()
        return max(0, -(-(left - rank) // ranks))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        [item] = self.__getitems__([index])
        return item

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, torch.Tensor]]:
        """Several items at once, which is how a `DataLoader` asks for them.

        Raises:
            IndexError: when there is no such item.
            InputError: when an index is no whole number.
        """
        self._share.refuse_loaders()
        wanted = self._checked(indices)
        rank, ranks = self._share.now()
        self._place["used"] = 1
        batch = self._source.batch(self._place["start"] + wanted * ranks + rank)
        rows = zip(*batch.values(), strict=True)
        return [dict(zip(batch, row, strict=True)) for row in rows]

    def _checked(self, indices: Iterable[int]) -> NDArray[np.int64]:
        length = self._items()
        numbers = []
        for index in indices:
            try:
                number = operator.index(index)
            except TypeError as error:
                raise InputError(
                    f"item {index!r:.80} was asked for; expected a whole number, one at a time."
                ) from error
            if not -length <= number < length:
                raise IndexError(f"item {number} was asked for; there are {length}.")
            numbers.append(number % length)
        return np.array(numbers, dtype=np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Go to the first window of an epoch; in the epoch under way, stay at the loaded place.

        So trainers that call this before each epoch go on where a loaded state was taken.

        Raises:
            InputError: when it is no whole number, or before the epoch of a state that was loaded
                and not used yet.
        """
        place, length = self._place, self._source.order.length
        first = self._source.first_of(epoch, length, type(self).__name__)
        if place["loaded"]:
            under_way = place["start"] // length
            if epoch == under_way:
                return
            if epoch < under_way and not place["used"]:
                raise unused(under_way, epoch)
        place["start"], place["loaded"] = first, 0

    def state_dict(self, taken: int = 0) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, when each rank has taken so many items.

        The same on all ranks, and good for any number of ranks and workers. It counts items in
        their order: a sampler that shuffles has an order of its own, and a state of its own.
        """
        taken = whole_number("WindowDataset", "taken", taken, 0, unit="items")
        start, length = self._place["start"], self._source.order.length
        end, processes = (start // length + 1) * length, self._share.processes
        position = start + taken * processes
        if position > end - (processes if self._drop_uneven else 0):
            position = end  # what is left is nobody's
        return self._source.state(position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was taken: item 0 is the first that was not, in that epoch.

        That holds until `set_epoch` starts another epoch.

        Raises:
            InputError: when the state is of other windows, or another seed.
        """
        place = self._place
        place["start"], place["loaded"], place["used"] = self._source.follow(state), 1, 0
