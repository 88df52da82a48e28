"""The queries of the chunk that is being read: once it is complete, they vote for blocks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ASKING", "ASKING_SUMS", "RecentQueries"]

ASKING = "queries"
ASKING_SUMS = "sums"


class RecentQueries:
    """Queries of the newest chunk of each row, kept among the tensors of a layer.

    These are `queries`, `(batch, heads, chunk, dim)`, rotated by as many positions as recalled
    blocks are away; and `sums`, `(batch, heads, chunk)` float32, for each query the log of the sum
    of the exponentials of its scores with the keys that it sees whatever is recalled.

    Args:
        tensors: of the layer; these two are added to them.
        chunk: tokens of a chunk.
    """

    def __init__(self, tensors: dict[str, Tensor], chunk: int) -> None:
        self.tensors = tensors
        self.chunk = chunk

    def allocate(self, batch: int, like: Tensor, dtype: torch.dtype) -> None:
        """Make room for queries `(rows, heads, tokens, dim)` like these, of `batch` rows."""
        shape = (batch, like.shape[1], self.chunk)
        self.tensors[ASKING] = like.new_zeros(*shape, like.shape[3], dtype=dtype)
        self.tensors[ASKING_SUMS] = like.new_zeros(shape, dtype=torch.float32)

    def add(self, rows: slice, before: int, queries: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Add new queries with their sums, and keep those of the newest chunk.

        Args:
            rows: of the batch.
            before: how many tokens of the chunk came before the new ones.
            queries: `(rows, heads, tokens, dim)`.
            sums: `(rows, heads, tokens)`.

        Returns:
            The queries since the start of the chunk and their sums, the new ones included.
        """
        found = []
        for name, new in ((ASKING, queries.to(self.tensors[ASKING].dtype)), (ASKING_SUMS, sums)):
            kept = self.tensors[name][rows]
            since = torch.cat((kept[:, :, :before], new), dim=2)
            complete = (since.shape[2] - 1) // self.chunk * self.chunk
            kept[:, :, : since.shape[2] - complete] = since[:, :, complete:]
            found.append(since)
        return found[0], found[1]
