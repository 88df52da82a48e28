"""Attention weights as transformers returns them: one column for each token that was fed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from transom.attention.attending import Attending
from transom.attention.attention_module import eager_attention_of
from transom.attention.patterns import Pattern
from transom.attention.score_rule import ScoreRule
from transom.attention.visibility import Visibility
from transom.errors import CacheError

__all__ = ["Columns", "Shown", "rule_of_weights", "weights_under", "weights_within"]


@dataclass(frozen=True)
class Columns:
    """The column of each key in the text as it was fed, where padding has columns too.

    Attributes:
        keys: `(rows, kv_len)` int64 on the CPU, the position of each key among the real tokens, -1
            where there is no key; `rows` is 1 when all rows of the batch agree.
        real: `(batch, columns)` bool on the CPU, which columns are real tokens; None if all are.
        count: how many columns there are.
    """

    keys: Tensor
    real: Tensor | None
    count: int

    def spread(self, weights: Tensor) -> Tensor:
        """Weights over keys, `(batch, heads, q_len, kv_len)`, as `(batch, heads, q_len, columns)`.

        The columns of padding and of evicted tokens are zero.
        """
        batch, heads, tokens, _ = weights.shape
        places = self.keys.clamp(min=0)
        if self.real is not None:
            order = torch.argsort((~self.real).int(), dim=1, stable=True)  # the real ones first
            places = order.gather(1, places.expand(batch, -1))
        index = places.to(weights.device)[:, None, None].expand(batch, heads, tokens, -1)
        held = (self.keys >= 0).to(weights.device)[:, None, None]
        spread = weights.new_zeros(batch, heads, tokens, self.count)
        return spread.scatter_add(3, index, weights * held)


@dataclass(frozen=True)
class Shown:
    """Stands in place of a mask where a bounded cache decides and weights may be asked for.

    Attributes:
        visible: the mask, None for everything, or what attends instead.
        columns: where the keys are in the text; None where heads keep different tokens.
    """

    visible: Tensor | Attending | None
    columns: Columns | None
    ndim: ClassVar[int] = 4  # as in `Attending`

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> Shown:
        """For some of the queries; see `Visibility`."""
        if isinstance(self.visible, (Tensor, Visibility)):
            return Shown(self.visible[index], self.columns)
        return self


def rule_of_weights(
    rule: ScoreRule, module: nn.Module, q: Tensor, k: Tensor, v: Tensor
) -> ScoreRule:
    """The rule of the weights that a model's own attention returns.

    Granite's weights add up to 1, as if there were no sink: it takes the share of the sink off the
    output. The weight of a query's only key tells.
    """
    eager = eager_attention_of(module)
    if rule.sink_logits is None or eager is None:
        return rule
    query, key, value = (x[:1, :, :1] for x in (q, k, v))
    given = {"scaling": rule.scale, "softcap": rule.softcap, "s_aux": rule.sink_logits}
    weights = eager(module, query, key, value, None, **given)[1]
    without = weights is not None and bool((weights == 1).all())
    return replace(rule, sink_logits=None) if without else rule


def weights_under(
    visible: Attending, columns: Columns | None, q: Tensor, k: Tensor, rule: ScoreRule, layer: int
) -> Tensor:
    """`(batch, heads, q_len, columns)` weights of a pass of several tokens, in the dtype of `q`.

    They take `q_len * columns` numbers per head.

    Args:
        visible: what attends in this pass.
        columns: where the keys are in the text.
        q, k, rule, layer: as for `Attending.attend`.

    Raises:
        CacheError: when heads keep different tokens.
    """
    if columns is None or not isinstance(visible, Visibility):
        raise CacheError(
            "output_attentions=True asks for attention weights, which cannot be given where each "
            "head keeps different tokens (a policy by score or with recall). Leave it off, or use "
            "a policy by position such as sinks or window."
        )
    queries, keys = visible.queries[:, None, :, None], visible.keys[:, None, None, :]
    seen = visible.policy.visible(queries, keys)
    if visible.blocks is not None:
        seen = seen | visible.blocks.same(slice(None), slice(None))
    seen = seen & (keys >= 0)
    if visible.pattern is not None:
        seen = seen & visible.pattern.at(queries, keys.clamp(min=0))
    scores = _scores(q, k)
    if (
        visible.rotation is not None
        and visible.owners.get(layer, layer) not in visible.layers_without_rope
    ):
        assert visible.rotary is not None
        tables = (table[:, None] for table in visible.rotation)
        rotated = visible.rotary.rotate_queries(q, *tables)
        scores = torch.where(keys < visible.policy.pinned, _scores(rotated, k), scores)
    return columns.spread(_weights(scores, seen, rule, q.dtype))


def weights_within(pattern: Pattern, q: Tensor, k: Tensor, rule: ScoreRule) -> Tensor:
    """`(batch, heads, q_len, kv_len)` weights under a pattern, in the dtype of `q`."""
    seen = pattern.mask(q.shape[2], k.shape[2], batch=q.shape[0], heads=q.shape[1]).to(q.device)
    return _weights(_scores(q, k), seen, rule, q.dtype)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(2, 3)


def _weights(products: Tensor, seen: Tensor, rule: ScoreRule, dtype: torch.dtype) -> Tensor:
    return rule.weights(rule.capped(products * rule.scale), seen).to(dtype)
