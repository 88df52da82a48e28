"""The base of layers that compute attention themselves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from transom.attention.score_rule import ScoreRule
from transom.kv.cache_layer import CacheLayer
from transom.kv.headwise_planner import HeadwisePlanner, RowGroup

__all__ = ["AttentionInputs", "SelfAttendingLayer"]


class AttentionInputs(NamedTuple):
    """Queries, keys and values of the same tokens, `(rows, heads or kv_heads, tokens, dim)`."""

    q: Tensor
    k: Tensor
    v: Tensor


class SelfAttendingLayer(CacheLayer):
    """A layer whose heads may see different tokens, so that one mask cannot say what is seen.

    The tokens that it holds change at fixed places in the text, also in the middle of a pass. So
    results do not depend on how the text is cut into passes.
    """

    planner: HeadwisePlanner[Any]

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return False

    @abstractmethod
    def fit(self, policy: Any) -> None:
        """Follow another policy of the same kind; only before the first token."""

    @abstractmethod
    def can_crop(self, seen: int, tokens: int) -> bool:
        """Whether the newest `tokens` of `seen` had no effect on what is kept of the others."""

    @abstractmethod
    def _attend_group(self, group: RowGroup, inputs: AttentionInputs, rule: ScoreRule) -> Tensor:
        """Store the new tokens of a group, without padding, and compute their attention."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Prepare for new keys and values and return them; `attend` stores them."""
        self.ready(key_states, value_states)
        return self._corrected(key_states), value_states

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule) -> Tensor:
        """Store the new tokens and attend to what each query may see.

        Args:
            q: `(batch, heads, tokens, head_dim)`, rotated as the model did.
            k, v: `(batch, kv_heads, tokens, dim)`, as `update` returned them.
            rule: how scores become weights.

        Returns:
            `(batch, heads, tokens, value_dim)`; zeros for padding.
        """
        plan = self.planner.plan
        assert plan is not None
        if len(plan.groups) == 1 and plan.groups[0].columns is None:
            out = self._attend_group(plan.groups[0], AttentionInputs(q, k, v), rule)
        else:
            out = q.new_zeros(*q.shape[:3], v.shape[3])
            for group in plan.groups:
                columns = slice(None) if group.columns is None else group.columns
                real = AttentionInputs(*(x[group.rows][:, :, columns] for x in (q, k, v)))
                out[group.rows, :, columns] = self._attend_group(group, real, rule)
        if self.last:
            self.planner.commit()
        return out
