"""How scores become attention weights: scaled, capped, and beside a sink that has no value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transom.errors import UnsupportedModelError

__all__ = ["SCORE_ARGUMENTS", "ScoreRule"]

SCORE_ARGUMENTS = ("softcap", "s_aux")  # in which models hand a rule to transformers' attention


@dataclass(frozen=True, eq=False)
class ScoreRule:
    """What a model does between the products of queries and keys and the weights of the values.

    Products are scaled, then capped, then hidden where a query does not see a key. Each head may
    have a sink: a score that takes part in the softmax and has no key and no value. So the weights
    of a query may add up to less than 1.

    Attributes:
        scale: of the products.
        softcap: the limit of a score, `softcap * tanh(score / softcap)`; None for no limit.
        sink_logits: `(heads,)`, the score of the sink of each query head; None for no sinks.

    Sources: Gemma 2, https://arxiv.org/abs/2408.00118; gpt-oss, https://arxiv.org/abs/2508.10925.
    """

    scale: float
    softcap: float | None = None
    sink_logits: Tensor | None = None

    @classmethod
    def given(cls, scale: float, arguments: Mapping[str, object]) -> ScoreRule:
        """The rule in the arguments that a model hands to transformers' attention function.

        Raises:
            UnsupportedModelError: when one of them is not what it is in transformers' own models.
        """
        softcap, sinks = (arguments.get(name) for name in SCORE_ARGUMENTS)
        if softcap is not None and not isinstance(softcap, (int, float)):
            raise UnsupportedModelError(
                f"attention is called with a softcap of type {type(softcap).__name__}; expected a "
                "number. Use transformers' own DynamicCache."
            )
        if sinks is not None and not (isinstance(sinks, Tensor) and sinks.ndim == 1):
            raise UnsupportedModelError(
                f"attention is called with s_aux of type {type(sinks).__name__}; expected a tensor "
                "with one number for each head. Use transformers' own DynamicCache."
            )
        return cls(scale, softcap, sinks)

    @property
    def only_scales(self) -> bool:
        """Whether this is plain attention, which fused kernels compute."""
        return self.softcap is None and self.sink_logits is None

    def of_heads(self, heads: slice) -> ScoreRule:
        """The rule of some of the query heads."""
        if self.sink_logits is None:
            return self
        return replace(self, sink_logits=self.sink_logits[heads])

    def capped(self, scores: Tensor) -> Tensor:
        """Scaled products of queries and keys, of any shape, as scores; in float32 at least."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if self.softcap is None:
            return scores
        return torch.tanh(scores / self.softcap) * self.softcap

    def weights(self, scores: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attention weights, `(..., heads, q_len, kv_len)` like the scores.

        Args:
            scores: as `capped` gives them.
            seen: bool, which keys a query sees; broadcasts to the scores. None for all. A query
                that sees nothing has weights of 0.
        """
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        if self.sink_logits is not None:
            sinks = self.sink_logits.to(scores)[:, None, None].expand(*scores.shape[:-1], 1)
            return torch.cat((scores, sinks), dim=-1).softmax(dim=-1)[..., :-1]
        if seen is None:
            return scores.softmax(dim=-1)
        # A softmax over nothing is NaN, and NaN even unused stops a backward pass that looks for
        # it.
        blind = ~seen.any(dim=-1, keepdim=True)
        return scores.masked_fill(blind, 0).softmax(dim=-1).masked_fill(blind, 0)
