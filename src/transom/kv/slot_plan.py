"""What one forward pass writes and reads, under a policy by position."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transom.attention.correction import Correction
from transom.attention.visibility import Visibility

__all__ = ["SlotPlan"]


@dataclass(eq=False)
class SlotPlan:
    """What one forward pass writes to and reads from every layer's storage.

    Attributes:
        tokens: new tokens per row, padding included.
        lengths: real tokens per row once the pass is done.
        rows, source, slots: new token `source[i]` of row `rows[i]` is written to `slots[i]`. With
            `rows` None the same is done in every row; with `source` None, to every new token.
        stored: how many slots are read; the slots past them are still empty.
        in_place: whether new tokens are written first and then read from storage. Otherwise they
            are read beside the stored ones and written afterwards, because they may take the
            slots of the oldest.
        rotation: `(rows, head_dim, head_dim)` float32, rotates the pinned keys; None if they stay.
            Only for a single query: several queries are rotated themselves (see `Visibility`).
        visible: for a single query a mask over the slots, `(rows, 1, 1, stored)` bool, or None
            when it sees all of them; for several, or with a correction, a `Visibility`.
        keys: `(rows, kv_len)` int64 on the CPU, position of each key that is read, -1 if empty.
        valid: `(rows, tokens)` bool, which new tokens are real; None for all.
        correction: of new queries and keys; None where they are right.
        fills_pinned: some new token may be among the pinned ones.
        started: some layer has already run.
        commits: whether the last layer ends the pass. `CompiledStep` ends it outside its graph.
    """

    tokens: int
    lengths: list[int]
    rows: Tensor | None
    source: Tensor | None
    slots: Tensor
    stored: int
    in_place: bool
    rotation: Tensor | None
    visible: Tensor | Visibility | None
    keys: Tensor
    valid: Tensor | None
    fills_pinned: bool
    correction: Correction | None = None
    started: bool = False
    commits: bool = True
