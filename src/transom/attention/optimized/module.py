"""Attention as a torch module: grouped heads, rotary positions, any pattern, a bounded cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from transom.errors import CacheError, InputError
from transom.policies import Policy
from transom.validation import known_keywords

__all__ = ["OptimizedAttention"]

# Traced, the layout of a pattern would be compiled anew for every length and every padding.
_attend = uncompiled(attend.__call__)


@known_keywords
class OptimizedAttention(nn.Module):
    """Self-attention in which each query sees what a pattern lets it see.

        attn = OptimizedAttention(768, num_heads=12, num_kv_heads=4, pattern="window:512")
        y = attn(x, mask=padding_mask)  # (batch, seq, 768) -> (batch, seq, 768)

    Runs on the fused kernels of `transom.attention.dispatch`, which look only at what is visible.
    Dropout in training and masks with 4 dimensions cannot go there and take `attend_by_blocks`,
    which is slower. Neither ever holds `seq * seq` scores.

    Args:
        hidden_size: dimensions of the tokens in and out.
        num_heads: query heads; head `h` attends to kv head `h // (num_heads // num_kv_heads)`.
        num_kv_heads: heads of keys and values; `num_heads` by default.
        pattern: who sees whom: a `Pattern`, a `Policy` or its text, `"sinks:4,window=1020"`. By
            default `causal()`; for attention in both directions give `everything()`.
        rotary: True for plain rotary positions, or a `Rotary`.
        rope_theta: base of the plain rotary positions.
        streaming_heads: `(num_heads,)` bools, true for the heads that have `streaming_pattern`,
            `sinks(4) | sliding(256)` say, in place of `pattern` (DuoAttention).
        head_dim: `hidden_size // num_heads` by default.
        scale: of the scores, `head_dim ** -0.5` by default.
        dropout: probability with which an attention weight is dropped, in training only.
        bias: of the projections to queries, keys and values.
        out_bias: of the projection of the output; as `bias` by default.
        layer_idx: which layer of a cache is this module's.

    Raises:
        InputError: on settings that do not fit together.
        PolicyError: when a text is not a policy's.
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
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        q_size, kv_size = heads.queries * heads.dim, heads.keys * heads.dim
        self.q_proj = nn.Linear(hidden_size, q_size, bias=bias, **made)
        self.k_proj = nn.Linear(hidden_size, kv_size, bias=bias, **made)
        self.v_proj = nn.Linear(hidden_size, kv_size, bias=bias, **made)
        self.o_proj = nn.Linear(
            q_size, hidden_size, bias=bias if out_bias is None else out_bias, **made
        )

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
            mask: of padding, `(seq,)` or `(batch, seq)`, bool or 0 and 1, true for real tokens; or
                of queries by keys, `(batch or 1, num_heads or 1, seq, seq)`, bool, true where a
                query may attend, or floating, added to the scores. The pattern holds as well.
            positions: whole numbers, `(seq,)` or `(batch, seq)`, by which queries and keys are
                turned; from 0 on by default. Who sees whom does not depend on them.
            cache: a `BoundedCache`; mutated. Feeding a text in chunks of any sizes gives what one
                dense pass under the cache's policy gives. Positions are the cache's own, and
                `mask` is `(batch, cache.seen + seq)`. The layers that share a cache run in order,
                and the mask of the first of them counts. Gradients flow as far back as tokens are
                kept; use `torch.no_grad()` where none are wanted.
            layer_idx: which layer of the cache, for this call.

        Padding is not seen, but sees: its outputs are computed like any others. Where a query sees
        nothing its heads give zeros (with a cache, some finite numbers).

        Raises:
            InputError: when shapes, dtypes or settings do not fit.
            CacheError: when the cache was made for another kind of layer or is in another pass,
                when dropout is on, or when the module has a pattern: with a cache its policy says
                what is visible.
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
        heads = attend_by_blocks(q, k, v, pattern, mask=dense, scale=self.scale, dropout=dropout)
        return self._join(heads)

    def _forward_cached(
        self, x: Tensor, mask: Any, positions: Any, cache: KeptKeys, layer: int
    ) -> Tensor:
        if self.pattern is not None:
            raise CacheError(
                f"the module has the pattern {self.pattern!r} and was given a cache, whose policy "
                "says what is visible; make the module without a pattern, or leave out the cache."
            )
        if positions is not None:
            raise InputError(
                "positions were given with a cache, which counts them; leave them out."
            )
        if self.training and self.dropout:
            raise CacheError("attention dropout is on; a cache is for inference: call eval().")
        check_fits(cache, layer, self.head_dim, self.rotary)
        real = None
        if mask is not None:
            batch, seq = x.shape[:2]
            real = real_tokens(mask, batch, cache.planner.seen + seq).expand(batch, -1)
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
                f"make it with {NAME}(..., rotary=True)."
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
        """Queries, keys and values, `(batch, heads, seq, head_dim)` each, rotary applied."""
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
        """What `print(module)` says of it."""
        heads = f"{self.num_heads} heads, {self.num_kv_heads} kv heads of {self.head_dim}"
        rotated = f", rotary over {self.rotary.dim}" if self.rotary else ""
        return f"{heads}, {self.pattern or causal()!r}{rotated}, dropout={self.dropout}"

    @classmethod
    def from_llama(
        cls,
        source: nn.Module | Mapping[str, Tensor],
        config: Any,
        *,
        pattern: Pattern | Policy | str | None = None,
    ) -> OptimizedAttention:
        """A copy of one attention layer of a transformers Llama, Mistral or Qwen2 model.

        Args:
            source: the layer, `model.model.layers[0].self_attn`, or its state dict.
            config: the model's; gives heads, rotary positions and dropout.
            pattern: as in the constructor.

        Dtype, device and training mode are those of the source; a state dict says nothing of the
        last, so there the module trains, as any new one.

        Raises:
            UnsupportedModelError: when the model attends otherwise than Llama, or its rotary
                positions are not supported.
            InputError: when weights are missing, or there are others.
        """
        return cls._with(of_llama(source, config, pattern))

    @classmethod
    def from_multihead_attention(
        cls, source: nn.MultiheadAttention, *, pattern: Pattern | Policy | str | None = None
    ) -> OptimizedAttention:
        """A copy of torch's attention, for self-attention: `source(x, x, x)`.

        Args:
            pattern: as in the constructor, but by default `everything()`, since torch's module is
                causal only when called so.

        `x` is `(batch, seq, hidden)` whatever the source's `batch_first`: that says how it is
        called and not how its weights lie, so transpose what you gave to a source without it.
        Masks are the other way round here: torch's bool masks are true for what is left out.

        Raises:
            InputError: when it has `kdim`, `vdim`, `add_bias_kv` or `add_zero_attn`.
        """
        return cls._with(
            of_multihead_attention(source, everything() if pattern is None else pattern)
        )

    @classmethod
    def _with(cls, weights: Weights) -> OptimizedAttention:
        made = cls(**weights.settings)
        made.load_state_dict(weights.state)
        return made.train(weights.training)
