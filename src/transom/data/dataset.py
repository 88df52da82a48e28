"""Windows by number, in an order of their own: a map-style dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from transom.checks import whole_number
from transom.corpus import TokenCorpus
from transom.data.source import WindowSource, share_of

__all__ = ["WindowDataset"]


class WindowDataset(Dataset[dict[str, torch.Tensor]]):
    """One epoch of windows, shuffled by `shuffle_seed`, of which each rank has its share.

    An item has `input_ids`, `attention_mask`, `labels` and, where packed, `position_ids`, `(size,)`
    int64 each: what a causal model of transformers takes. It is the same whatever asks for it, so
    any number of workers gives the same batches. Over all ranks every window comes once: rank `r`
    of `n` has each n-th, from the r-th on, so that a step of all of them has the same windows for
    any number of ranks.

    Args:
        corpus, size, stride, settings: see `TokenCorpus.windows`; by default windows do not
            overlap.
        shuffle_seed: of the order, which is another in each epoch; None for that of the corpus.
        rank, ranks: which share this is, of how many; by default what `torch.distributed` says.

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
        **settings: Any,
    ) -> None:
        self._source = WindowSource(corpus, size, stride, shuffle_seed, settings)
        self._rank, self._ranks = share_of(rank, ranks)
        self._start = 0

    def __len__(self) -> int:
        length = self._source.order.length
        left = length - self._start % length
        return max(0, -(-(left - self._rank) // self._ranks))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        [item] = self.__getitems__([index])
        return item

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        """Several items at once, which is how a `DataLoader` asks for them."""
        wanted = np.asarray(indices, dtype=np.int64)
        for index in wanted[(wanted >= len(self)) | (wanted < -len(self))].tolist():
            raise IndexError(f"item {index} was asked for; there are {len(self)}.")
        wanted = wanted % len(self) if len(self) else wanted
        batch = self._source.batch(self._start + wanted * self._ranks + self._rank)
        rows = zip(*batch.values(), strict=True)
        return [dict(zip(batch, row, strict=True)) for row in rows]

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch from its first window."""
        whole_number("WindowDataset", "epoch", epoch, 0, unit="epochs")
        self._start = epoch * self._source.order.length

    def state_dict(self, taken: int = 0) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, when each rank has taken so many items.

        The same on all ranks, and good for any number of ranks and workers.
        """
        length = self._source.order.length
        end = (self._start // length + 1) * length
        return self._source.state(min(self._start + taken * self._ranks, end))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was taken: item 0 is the first that was not, in that epoch.

        Raises:
            InputError: when the state is of other windows, or another seed.
        """
        self._start = self._source.position_of(state)
