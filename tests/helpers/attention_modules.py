"""A slow `OptimizedAttention`, one row and one head at a time; small modules and masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transom.attention.optimized.module import OptimizedAttention
from transom.attention.patterns import Pattern

CLOSE: Any = {"atol": 2e-5, "rtol": 1e-4}


def slow_attention(
    module: OptimizedAttention,
    x: Tensor,
    visible: Tensor,
    *,
    bias: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """`(batch, seq, hidden)`; `visible` and `bias` expand to `(batch, heads, seq, seq)`."""
    batch, seq, _ = x.shape
    heads, groups = module.num_heads, module.num_heads // module.num_kv_heads
    size = (batch, heads, seq, seq)
    visible = visible.expand(size)
    added = torch.zeros(()).expand(size) if bias is None else bias.expand(size)
    places = torch.arange(seq) if positions is None else positions
    places = places.expand(batch, seq)
    weights, values = [], []
    for row in range(batch):
        for head in range(heads):
            q = rotated(module.rotary, _head(module.q_proj, x[row], head, heads), places[row])
            shared = head // groups
            k = _head(module.k_proj, x[row], shared, module.num_kv_heads)
            k = rotated(module.rotary, k, places[row])
            scores = q @ k.T * module.scale + added[row, head]
            seen = visible[row, head] & (added[row, head] > -torch.inf)
            lines = [_softmax(scores[i], seen[i]) for i in range(seq)]
            weights.append(torch.stack(lines))
            values.append(_head(module.v_proj, x[row], shared, module.num_kv_heads))
    outputs = torch.stack(weights).view(size) @ torch.stack(values).view(batch, heads, seq, -1)
    rows = [torch.cat([outputs[row, head] for head in range(heads)], 1) for row in range(batch)]
    return module.o_proj(torch.stack(rows))


def rotated(rotary: Any, x: Tensor, positions: Tensor) -> Tensor:
    """`x`, `(seq, head_dim)`, its pairs as complex numbers rotated by their angles."""
    if rotary is None:
        return x
    n = rotary.dim // 2
    pairs = [(2 * i, 2 * i + 1) if rotary.interleaved else (i, i + n) for i in range(n)]
    columns = list(x.unbind(1))
    for (one, two), frequency in zip(pairs, rotary.inv_freq.tolist(), strict=True):
        angle = positions.double() * frequency
        point = torch.complex(x[:, one].double(), x[:, two].double())
        point = point * torch.polar(torch.ones_like(angle), angle)
        columns[one], columns[two] = point.real.to(x.dtype), point.imag.to(x.dtype)
    return torch.stack(columns, 1)


def _head(projection: Any, x: Tensor, head: int, heads: int) -> Tensor:
    size = projection.out_features // heads
    rows = slice(head * size, (head + 1) * size)
    y = x @ projection.weight[rows].T
    return y if projection.bias is None else y + projection.bias[rows]


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    weights = torch.zeros_like(scores)
    if not seen.any():
        return weights
    return weights.masked_scatter(seen, torch.softmax(scores[seen], dim=0))


def made(**settings: Any) -> OptimizedAttention:
    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "num_heads": 4, "num_kv_heads": 2, "rotary": True}
    return OptimizedAttention(**{**sizes, **settings})


def tokens(batch: int, seq: int, hidden: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + seq)
    return 2 * torch.randn(batch, seq, hidden, generator=generator)


def close(one: Tensor, two: Tensor) -> None:
    assert one.isfinite().all()
    torch.testing.assert_close(one, two, **CLOSE)


def expected(module: OptimizedAttention, x: Tensor, pattern: Pattern, **more: Any) -> Tensor:
    batch, seq, _ = x.shape
    visible = pattern.mask(seq, batch=batch, heads=module.num_heads)
    return slow_attention(module, x, visible, **more)


def real_rows(batch: int, seq: int) -> Tensor:
    """Padding to the left, to the right and in the middle, as many rows as asked for."""
    places = torch.arange(seq)
    rows = [places >= seq // 3, places < seq - seq // 4, (places < seq // 4) | (places > seq // 2)]
    return torch.stack(rows[:batch])


def masks(batch: int, heads: int, seq: int) -> dict[str, tuple[Tensor, Tensor | None]]:
    """By name, masks of queries by keys: what is visible, and what is added."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.rand(batch, heads, seq, seq, generator=generator) < 0.6
    numbers = torch.randn(batch, heads, seq, seq, generator=generator)
    bits[..., 2, :] = False  # a query that sees nothing
    closed = torch.zeros(bits.shape).masked_fill(~bits, -torch.inf)
    lowest = torch.finfo(torch.float32).min
    return {
        "bool": (bits, None),
        "bool, one head": (bits[:, :1], None),
        "bool, one row": (bits[:1], None),
        "bool, one of each": (bits[:1, :1], None),
        "0 and -inf": (closed, closed),
        "0 and -inf in float64": (closed.double(), closed),
        "0 and the lowest number": ((~bits[:, :1]) * lowest, (~bits[:, :1]) * lowest),
        "any numbers": (numbers, numbers),
        "numbers and -inf, one head": ((numbers + closed)[:, :1], (numbers + closed)[:, :1]),
    }
