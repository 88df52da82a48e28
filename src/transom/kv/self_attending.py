"""What layers have in common that compute attention themselves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transom.kv.cache_layer import CacheLayer
from transom.kv.headwise_planner import HeadwisePlanner, RowGroup

__all__ = ["AttentionInputs", "SelfAttendingLayer", "causal"]


class AttentionInputs(NamedTuple):
    """Queries, keys and values of the same tokens, `(rows, heads or kv_heads, tokens, dim)`."""

    q: Tensor
    k: Tensor
    v: Tensor


class SelfAttendingLayer(CacheLayer):
    """A layer each of whose heads may see other tokens, so that no mask says what is seen.

    What it holds changes at fixed tokens, in the middle of a pass too; so results do not depend on
    how the text is cut.
    """

    planner: HeadwisePlanner[Any]

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return False

    @abstractmethod
    def fit(self, policy: Any) -> None:
        """Keep what another policy of the same kind says; only before the first token."""

    @abstractmethod
    def can_crop(self, seen: int, tokens: int) -> bool:
        """Whether the newest `tokens` of `seen` left no trace in what is kept of the others."""

    @abstractmethod
    def _run(self, run: RowGroup, states: AttentionInputs, scale: float) -> Tensor:
        """Store the tokens of rows that agree, without padding, and attend for them."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Announce new keys and values, which `attend` will store; gives them back as they are."""
        self.ready(key_states, value_states)
        return key_states, value_states

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Store the new tokens and attend to what each query may see.

        Args:
            q: `(batch, heads, tokens, head_dim)`, at the angles that the model gave them.
            k, v: `(batch, kv_heads, tokens, dim)`, what `update` gave out.
            scale: of the scores.

        Returns:
            `(batch, heads, tokens, value_dim)`; zeros for padding.
        """
        plan = self.planner.plan
        assert plan is not None
        if len(plan.runs) == 1 and plan.runs[0].columns is None:
            out = self._run(plan.runs[0], AttentionInputs(q, k, v), scale)
        else:
            out = q.new_zeros(*q.shape[:3], v.shape[3])
            for run in plan.runs:
                columns = slice(None) if run.columns is None else run.columns
                real = AttentionInputs(*(x[run.rows][:, :, columns] for x in (q, k, v)))
                out[run.rows, :, columns] = self._run(run, real, scale)
        if self.last:
            self.planner.commit()
        return out


def causal(q: Tensor, k: Tensor) -> Tensor | None:
    """The mask of queries that are the newest keys, `(q_len, kv_len)` bool; None for one query."""
    count, stop = q.shape[2], k.shape[2]
    if count == 1:
        return None
    return torch.ones(count, stop, dtype=torch.bool, device=q.device).tril(stop - count)
