"""Attention as a torch module: grouped heads, rotary positions, any pattern, a bounded cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from transom.attention.compiling import uncompiled
from transom.attention.dispatch import attend
from transom.attention.kernels.by_blocks import attend_by_blocks
from transom.attention.optimized.cached import KeptKeys, attend_kept, begin_pass, check_fits
from transom.attention.optimized.masks import real_tokens, with_mask
from transom.attention.optimized.settings import NAME, read_heads, read_patterns, read_rotary
from transom.attention.optimized.weights import Weights, of_llama, of_multihead_attention
from transom.attention.patterns import Pattern, causal, everything
from transom.attention.rotary import Rotary
from transom.attention.score_rule import ScoreRule
from transom.errors import CacheError, InputError
from transom.policies import Policy
from transom.validation import known_keywords

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["OptimizedAttention"]

# If it were traced, each new length and each padding would be compiled again.
_attend = uncompiled(attend.__call__)


@known_keywords
class OptimizedAttention(nn.Module):
    """Self-attention in which each query sees what a pattern lets it see.

        attn = OptimizedAttention(768, num_heads=12, num_kv_heads=4, pattern="window:512")
        y = attn(x, mask=padding_mask)  # (batch, seq, 768) -> (batch, seq, 768)

    It runs on the kernels of `transom.attention.dispatch`, which compute only what is visible.
    Dropout in training and masks with 4 dimensions need `attend_by_blocks`, which is slower.
    Neither ever holds `seq * seq` scores.

    Args:
        hidden_size: dimensions of a token, in and out.
        num_heads: query heads; head `h` attends to kv head `h // (num_heads // num_kv_heads)`.
        num_kv_heads: heads of keys and values; `num_heads` by default.
        pattern: which keys each query sees: a `Pattern`, a `Policy` or its text, such as
            `"sinks:4,window=1020"`. The default is `causal()`; for attention in both directions
            give `everything()`.
        rotary: True for plain rotary positions, or a `Rotary`.
        rope_theta: base of the plain rotary positions.
        streaming_heads: `(num_heads,)` bools, true for the heads that have `streaming_pattern`
            instead of `pattern` (DuoAttention, https://arxiv.org/abs/2410.10819).
        streaming_pattern: the pattern of those heads, such as `sinks(4) | sliding(256)`.
        head_dim: `hidden_size // num_heads` by default.
        scale: of the scores, `head_dim ** -0.5` by default.
        dropout: probability that an attention weight is set to zero; in training only.
        bias: whether the projections to queries, keys and values have a bias.
        out_bias: whether the projection of the output has a bias; as `bias` by default.
        layer_idx: which layer of a cache belongs to this module.
        device, dtype: of the weights.

    Raises:
        InputError: if settings do not fit together.
        PolicyError: if a text is not a policy's.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        pattern: Pattern | Policy | str | None = None,
        rotary: bool | Rotary = False,
        rope_theta: float = 10_000.0,
        streaming_heads: Sequence[bool] | Tensor | None = None,
        streaming_pattern: Pattern | Policy | str | None = None,
        head_dim: int | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        out_bias: bool | None = None,
        layer_idx: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        heads = read_heads(hidden_size, num_heads, num_kv_heads, head_dim)
        if not 0 <= dropout < 1:
            raise InputError(
                f"{NAME}: dropout is {dropout}; expected a probability, at least 0 and below 1."
            )
        self.hidden_size = hidden_size
        self.num_heads, self.num_kv_heads, self.head_dim = heads
        self.pattern = read_patterns(pattern, streaming_pattern, streaming_heads, num_heads)
        self.rotary = read_rotary(rotary, heads.dim, rope_theta)
        self.scale = heads.dim**-0.5 if scale is None else scale
        self.dropout = dropout
        self.layer_idx = layer_idx
        linear = partial(nn.Linear, device=device, dtype=dtype)
        q_size, kv_size = heads.queries * heads.dim, heads.keys * heads.dim
        self.q_proj = linear(hidden_size, q_size, bias=bias)
        self.k_proj = linear(hidden_size, kv_size, bias=bias)
        self.v_proj = linear(hidden_size, kv_size, bias=bias)
        self.o_proj = linear(q_size, hidden_size, bias=bias if out_bias is None else out_bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: KeptKeys | None = None,
        layer_idx: int | None = None,
    ) -> Tensor:
        """Attention output, `(batch, seq, hidden_size)`.

        Args:
            x: `(batch, seq, hidden_size)`, in the dtype of the weights.
            mask: either of padding: `(seq,)` or `(batch, seq)`, bool or 0 and 1, true for real
                tokens. Or of queries by keys: `(batch or 1, num_heads or 1, seq, seq)`; bool, true
                where a query may attend, or floating, added to the scores. The pattern applies in
                addition.
            positions: whole numbers, `(seq,)` or `(batch, seq)`, by which queries and keys are
                rotated; by default 0, 1, 2, ... The pattern does not depend on them.
            cache: a `BoundedCache`; mutated. A text that is fed in chunks of any sizes gives what
                one dense pass under the cache's policy gives. The cache counts the positions, and
                `mask` is `(batch, cache.seen + seq)`. Layers that share a cache must run in order;
                the mask of the first layer counts. Gradients flow to all tokens that are kept; use
                `torch.no_grad()` if you need none.
            layer_idx: which layer of the cache to use in this call.

        No query sees padding, but outputs at padding are computed like others. If a query sees no
        key, its heads give zeros (with a cache, some finite numbers).

        Raises:
            InputError: if shapes, dtypes or settings do not fit.
            CacheError: if the cache was made for another kind of layer, or is in another pass; if
                dropout is on; or if the module has a pattern, because a cache has a policy.
        """
        self._check(x)
        if cache is not None:
            layer = self.layer_idx if layer_idx is None else layer_idx
            return self._forward_cached(x, mask, positions, cache, layer)
        batch, seq = x.shape[:2]
        pattern = causal() if self.pattern is None else self.pattern
        pattern, dense = with_mask(pattern, mask, batch, self.num_heads, seq)
        q, k, v = self._project(x, self._positions(positions, x))
        dropout = self.dropout if self.training else 0.0
        if dense is None and not dropout:
            return self._join(_attend(q, k, v, pattern, scale=self.scale))
        heads = attend_by_blocks(
            q, k, v, pattern, rule=ScoreRule(self.scale), mask=dense, dropout=dropout
        )
        return self._join(heads)

    def _forward_cached(
        self,
        x: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: KeptKeys,
        layer: int,
    ) -> Tensor:
        if self.pattern is not None:
            raise CacheError(
                f"the module has the pattern {self.pattern!r} and was given a cache, whose policy "
                "says what is visible; make the module without a pattern, or leave out the cache."
            )
        if positions is not None:
            raise InputError(
                "positions were given with a cache, which counts positions itself; leave them out."
            )
        if self.training and self.dropout:
            raise CacheError(
                "attention dropout is on, and a cache is for inference; call eval() on the module."
            )
        check_fits(cache, layer, self.head_dim, self.rotary)
        real = None
        if mask is not None:
            batch, seq = x.shape[:2]
            real = real_tokens(mask, batch, cache.seen + seq).expand(batch, -1)
        q, k, v = self._project(x, begin_pass(cache, layer, x, real))
        return self._join(attend_kept(q, k, v, cache=cache, layer=layer, scale=self.scale))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[2] != self.hidden_size or 0 in x.shape:
            raise InputError(
                f"x has shape {tuple(x.shape)}; expected (batch, seq, {self.hidden_size}), with "
                "at least one token."
            )
        if not x.is_floating_point():
            raise InputError(f"x has dtype {x.dtype}; expected floats: embed the tokens first.")

    def _positions(self, positions: Tensor | None, x: Tensor) -> Tensor:
        seq = x.shape[1]
        if positions is None:
            return torch.arange(seq, device=x.device)
        if self.rotary is None:
            raise InputError(
                "positions were given and the module has no rotary positions; leave them out, or "
                f"make the module with {NAME}(..., rotary=True)."
            )
        if (
            positions.shape not in ((seq,), (1, seq), (len(x), seq))
            or positions.is_floating_point()
        ):
            raise InputError(
                f"positions have shape {tuple(positions.shape)} and dtype {positions.dtype}; "
                f"expected whole numbers ({seq},) or ({len(x)}, {seq})."
            )
        return positions.to(x.device)

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, `(batch, heads, seq, head_dim)` each; q and k are rotated."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (p(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2) for p in projections)
        if self.rotary is None:
            return q, k, v
        cos, sin = self.rotary.angles(positions.view(-1, 1, x.shape[1]))
        return self.rotary.rotate(q, cos, sin), self.rotary.rotate(k, cos, sin), v

    def _join(self, heads: Tensor) -> Tensor:
        output: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return output

    def extra_repr(self) -> str:
        """What `print(module)` shows in brackets."""
        heads = f"{self.num_heads} heads, {self.num_kv_heads} kv heads of {self.head_dim}"
        rotated = f", rotary over {self.rotary.dim}" if self.rotary else ""
        return f"{heads}, {self.pattern or causal()!r}{rotated}, dropout={self.dropout}"

    @classmethod
    def from_llama(
        cls,
        source: nn.Module | Mapping[str, Tensor],
        config: PretrainedConfig,
        *,
        pattern: Pattern | Policy | str | None = None,
    ) -> OptimizedAttention:
        """A copy of one attention layer of a transformers Llama, Mistral or Qwen2 model.

        Args:
            source: the layer, `model.model.layers[0].self_attn`, or its state dict.
            config: of the model; it says which heads, rotary positions and dropout there are.
            pattern: as in the constructor.

        Dtype, device and training mode are those of the source. A state dict has no training mode;
        from it, the module is in training mode, like any new module.

        Raises:
            UnsupportedModelError: if the model attends differently from Llama, if its layers slide
                over a window and no pattern is given, or if its rotary positions are not supported.
            InputError: if weights are missing or unknown.
        """
        return cls._with(of_llama(source, config, pattern))

    @classmethod
    def from_multihead_attention(
        cls, source: nn.MultiheadAttention, *, pattern: Pattern | Policy | str | None = None
    ) -> OptimizedAttention:
        """A copy of torch's attention, for self-attention: `source(x, x, x)`.

        Args:
            pattern: as in the constructor, but by default `everything()`, because torch's module
                is causal only if a call says so.

        `x` is always `(batch, seq, hidden)`. If the source has `batch_first=False`, transpose what
        you gave to it. Bool masks mean the opposite here: true is visible, and in torch's masks
        true is hidden.

        Raises:
            InputError: if the source is not an `nn.MultiheadAttention`, or has `kdim`, `vdim`,
                `add_bias_kv` or `add_zero_attn`.
        """
        return cls._with(
            of_multihead_attention(source, everything() if pattern is None else pattern)
        )

    @classmethod
    def _with(cls, weights: Weights) -> OptimizedAttention:
        made = cls(**weights.settings)
        made.load_state_dict(weights.state)
        return made.train(weights.training)
