"""Numbers in eight or four bits: rounded in groups, with a scale and an offset each."""

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
    "a gradient would have to flow through keys and values of an earlier pass, which were rounded "
    "to 8 or 4 bits and have none. Use kv=auto, feed the text in one pass, or call detach() first."
)


class Codes(NamedTuple):
    """Rounded vectors.

    Attributes:
        codes: `(..., dim)` uint8, or `(..., dim / 2)` with two numbers in each byte.
        scale: `(..., groups)` bfloat16, which reaches as far as float32: what a step is.
        offset: `(..., groups)` float16, in steps.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor


class Channels(NamedTuple):
    """Where the numbers of each channel lie and how far they spread, `(rows, kv_heads, 1, dim)`.

    Keys have channels that are large in every token. Taking offset and width of each channel out
    first lets vectors be rounded one by one, so that any of them can leave on its own; KIVI rounds
    blocks of tokens by channel instead, which evicting single tokens would tear.

    Source: KIVI, https://arxiv.org/abs/2402.02750, on channels of keys and tokens of values.
    """

    mean: Tensor
    width: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor) -> Channels:
        """Those of some tokens, `(rows, kv_heads, tokens, dim)`; float32."""
        x = x.float()
        spread = x.std(2, unbiased=False, keepdim=True)
        # A channel that hardly moved among these tokens may yet do so among others.
        floor = 0.05 * spread.mean(-1, keepdim=True).maximum(x.abs().mean((2, 3), keepdim=True))
        return cls(x.mean(2, keepdim=True), spread.maximum(floor).clamp_(min=1e-6))

    def normal(self, x: Tensor) -> Tensor:
        """`x` without them; float32."""
        return (x.float() - self.mean) / self.width

    def back(self, x: Tensor) -> Tensor:
        """`x` with them again."""
        return torch.addcmul(self.mean, x, self.width)


def encode(x: Tensor, bits: int, group: int) -> Codes:
    """`x`, `(..., dim)`, rounded to `bits` in groups of `group` neighbouring numbers.

    Each number comes back off by at most half a step, and by what float16 rounds off the group's
    offset. A step is the group's range divided by `2**bits - 1`, or its largest number by
    `FARTHEST` where that is more; and up to 1 % more, because bfloat16 rounds it.
    """
    with torch.no_grad():
        groups = x.float().unflatten(-1, (-1, group))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        most = 2**bits - 1
        far = torch.maximum(low.abs(), high.abs()) / FARTHEST
        scale = (high / most - low / most).maximum(far).clamp_(min=TINY)
        scale = (scale * (1 + 2**-8)).bfloat16()  # never rounded below, so that codes suffice
        offset = (low / scale.float()).half()
        codes = (groups / scale.float() - offset.float()).round_().clamp_(0, most)
        codes = codes.to(torch.uint8).flatten(-2)
        if bits == 4:
            first, second = codes.chunk(2, dim=-1)
            codes = first | (second << 4)
    offset = without_gradient(offset.squeeze(-1), x, why=NO_GRADIENT)
    return Codes(codes, scale.squeeze(-1), offset)


def decode(rounded: Codes, bits: int, channels: Channels | None = None) -> Tensor:
    """What was rounded, `(..., dim)` float32, with its `channels` again if it was without them."""
    codes, scale, offset = (part.detach() for part in rounded)
    if bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=-1)
    groups = codes.unflatten(-1, (scale.shape[-1], -1))
    scale = scale.float()[..., None]
    out = torch.addcmul(offset[..., None] * scale, groups, scale).flatten(-2)
    out = out.detach()  # no view, into which autograd could not write twice
    if channels is not None:
        out = channels.back(out)
    return without_gradient(out, rounded.offset, why=NO_GRADIENT)


def storage(
    name: str, like: Tensor, slots: int, precision: Precision, by_channel: bool
) -> dict[str, Tensor]:
    """Empty storage, `(batch, kv_heads, _, dim)`: for `slots` rounded states, and exact ones.

    Raises:
        UnsupportedModelError: when vectors are of a length that does not pack.
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
