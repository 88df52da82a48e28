"""Windows without end, in batches: an iterable dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from transom.checks import whole_number
from transom.corpus import TokenCorpus
from transom.data.source import WindowSource, share_of

__all__ = ["WindowStream"]


class WindowStream(IterableDataset[dict[str, torch.Tensor]]):
    """Batches of windows, epoch after epoch, in an order that only `shuffle_seed` decides.

    For `DataLoader(stream, batch_size=None, num_workers=...)`: each item is a batch, made by one
    gather, and any number of workers gives the same ones in the same order. A step of all ranks
    together has the same windows for any number of ranks, as long as it has as many.

    Args:
        corpus, size, stride, settings: see `TokenCorpus.windows`; by default windows do not
            overlap.
        batch_size: windows per batch of this rank.
        shuffle_seed: of the order, which is another in each epoch; None for that of the corpus.
        epochs: after how many to stop, with a batch that may be smaller; None for never.
        rank, ranks: which share this is, of how many; by default what `torch.distributed` says.

    A batch has `input_ids`, `attention_mask`, `labels` and, where packed, `position_ids`,
    `(batch_size, size)` int64 each, and `position`: how many windows all ranks have had by then,
    from which `state_after` makes the state to resume from.
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
        **settings: Any,
    ) -> None:
        self._batch_size = whole_number("WindowStream", "batch_size", batch_size, 1, unit="windows")
        if epochs is not None:
            epochs = whole_number("WindowStream", "epochs", epochs, 1, unit="epochs")
        self._epochs = epochs
        self._source = WindowSource(corpus, size, stride, shuffle_seed, settings)
        self._rank, self._ranks = share_of(rank, ranks)
        self._position = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        first, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        mine = np.arange(self._batch_size, dtype=np.int64) * self._ranks + self._rank
        step = self._batch_size * self._ranks
        end = None if self._epochs is None else self._epochs * self._source.order.length
        at = self._position + first * step
        while end is None or at < end:
            positions = at + mine
            batch = self._source.batch(positions if end is None else positions[positions < end])
            after = at + step if end is None else min(at + step, end)
            batch["position"] = torch.tensor(after)
            if worker is None:
                self._position = after
            yield batch
            at += step * workers

    def state_after(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """What `load_state_dict` needs to go on after a batch, whoever made it.

        The same on all ranks, and good for any number of ranks and workers.
        """
        return self._source.state(int(batch["position"]))

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch; for `num_workers=0`, where this object gave it out."""
        return self._source.state(self._position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was taken, when iteration starts next.

        Raises:
            InputError: when the state is of other windows, or another seed.
        """
        self._position = self._source.position_of(state)
