"""Quantization to 8 or 4 bits: in groups of numbers, with a scale and an offset for each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transom.errors import UnsupportedModelError
from transom.kv.cache_layer import zeros
from transom.kv.gradients import without_gradient
from transom.policies import Precision

__all__ = ["Channels", "Codes", "decode", "encode", "storage"]

FARTHEST = 60_000  # steps of an offset, which float16 holds
TINY = torch.finfo(torch.bfloat16).tiny
NO_GRADIENT = (
    "a gradient would have to flow through keys and values that an earlier pass quantized to 8 or "
    "4 bits, and they have none. Use kv=auto, feed the text in one pass, or call detach() first."
)


class Codes(NamedTuple):
    """Quantized vectors.

    Attributes:
        codes: `(..., dim)` uint8, or `(..., dim / 2)` with two numbers in each byte.
        scale: `(..., groups)` bfloat16, which has the range of float32: the size of a step.
        offset: `(..., groups)` float16, in steps.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor


class Channels(NamedTuple):
    """The mean and the width of each channel, `(rows, kv_heads, 1, dim)` each.

    Keys have channels that are large in every token. Once each channel is normalized, keys can be
    quantized one token at a time, and any token can be evicted on its own. KIVI quantizes blocks
    of tokens by channel instead, and evicting single tokens would tear such blocks apart.

    Source: KIVI, https://arxiv.org/abs/2402.02750, on channels of keys and tokens of values.
    """

    mean: Tensor
    width: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor) -> Channels:
        """The channels of some tokens, `(rows, kv_heads, tokens, dim)`; float32."""
        x = x.float()
        spread = x.std(2, unbiased=False, keepdim=True)
        # A channel that hardly varies among these tokens may vary more among others.
        floor = 0.05 * spread.mean(-1, keepdim=True).maximum(x.abs().mean((2, 3), keepdim=True))
        return cls(x.mean(2, keepdim=True), spread.maximum(floor).clamp_(min=1e-6))

    def normal(self, x: Tensor) -> Tensor:
        """`x` with each channel normalized; float32."""
        return (x.float() - self.mean) / self.width

    def back(self, x: Tensor) -> Tensor:
        """`x` with the normalization undone."""
        return torch.addcmul(self.mean, x, self.width)


def encode(x: Tensor, bits: int, group: int) -> Codes:
    """`x`, `(..., dim)`, quantized to `bits` bits in groups of `group` neighbouring numbers.

    The error of each number is at most half a step, plus the rounding error of the group's offset
    in float16. A step is the group's range divided by `2**bits - 1`, or its largest number divided
    by `FARTHEST` if that is more; and up to 1 % more, because bfloat16 rounds it.
    """
    with torch.no_grad():
        groups = x.float().unflatten(-1, (-1, group))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        most = 2**bits - 1
        far = torch.maximum(low.abs(), high.abs()) / FARTHEST
        scale = (high / most - low / most).maximum(far).clamp_(min=TINY)
        scale = (scale * (1 + 2**-8)).bfloat16()  # never rounded down: the codes suffice
        offset = (low / scale.float()).half()
        codes = (groups / scale.float() - offset.float()).round_().clamp_(0, most)
        codes = codes.to(torch.uint8).flatten(-2)
        if bits == 4:
            first, second = codes.chunk(2, dim=-1)
            codes = first | (second << 4)
    offset = without_gradient(offset.squeeze(-1), x, why=NO_GRADIENT)
    return Codes(codes, scale.squeeze(-1), offset)


def decode(quantized: Codes, bits: int, channels: Channels | None = None) -> Tensor:
    """The numbers that were quantized, `(..., dim)` float32.

    With `channels`, their normalization is undone.
    """
    codes, scale, offset = (part.detach() for part in quantized)
    if bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=-1)
    groups = codes.unflatten(-1, (scale.shape[-1], -1))
    scale = scale.float()[..., None]
    out = torch.addcmul(offset[..., None] * scale, groups, scale).flatten(-2)
    out = out.detach()  # or autograd takes it for a view, and forbids some writes
    if channels is not None:
        out = channels.back(out)
    return without_gradient(out, quantized.offset, why=NO_GRADIENT)


def storage(
    name: str, like: Tensor, slots: int, precision: Precision, by_channel: bool
) -> dict[str, Tensor]:
    """Empty storage for `slots` quantized keys or values, and for the few exact ones.

    Args:
        name: `"keys"` or `"values"`, which the names of the tensors start with.
        like: states `(batch, kv_heads, _, dim)` that are to be stored.
        slots: for quantized tokens.
        precision: bits, and how many tokens stay exact.
        by_channel: whether to store means and widths of channels too.

    Raises:
        UnsupportedModelError: when vectors have a length that cannot be packed into bytes.
    """
    dim, bits = like.shape[3], precision.bits
    if dim * bits % 8:
        raise UnsupportedModelError(
            f"heads of {dim} numbers cannot be stored in {bits} bits; expected an even number. Use "
            "kv=int8."
        )
    groups = dim // precision.group(dim)
    parts = {
        "codes": zeros(like, slots, dim * bits // 8, dtype=torch.uint8),
        "scale": zeros(like, slots, groups, dtype=torch.bfloat16),
        "offset": zeros(like, slots, groups, dtype=torch.float16),
        "newest": zeros(like, precision.exact, dim),
        "first": zeros(like, precision.first, dim),
    }
    if by_channel:
        parts["mean"] = zeros(like, 1, dim, dtype=torch.float32)
        parts["width"] = zeros(like, 1, dim, dtype=torch.float32)
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}
