"""What transformers calls for a mask where a bounded cache or a pattern may decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from torch import Tensor
from transformers import AttentionMaskInterface

from transom.attention.attending import Attending
from transom.attention.causal_text import deviates
from transom.attention.compiling import uncompiled
from transom.attention.image_blocks import image_blocks
from transom.attention.patterns import Pattern, causal, padding
from transom.attention.patterns.shift import shifted
from transom.attention.planned_offset import PlannedOffset
from transom.attention.returned_weights import Shown
from transom.errors import CacheError, InputError
from transom.slow_paths import log_slow_path

__all__ = ["Mask", "Patterned", "mask"]


@dataclass(frozen=True)
class Patterned:
    """Stands in place of a mask where a pattern decides; positions count from the first key."""

    pattern: Pattern
    shape: tuple[int, int, int, int]  # of the mask; transformers asks for it when it comes back
    ndim: ClassVar[int] = 4

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> Patterned:
        """For the newest queries; a pattern takes the last query to be at the last key."""
        if index[2].stop is not None:
            raise CacheError(
                "the model computes a layer for some tokens that are not the newest, which no "
                "pattern can follow; expected all of them, or the newest."
            )
        return self


Mask: TypeAlias = Tensor | Attending | Patterned | Shown | None


def mask(
    *, base: str, kv_offset: int | Tensor, pattern: Pattern | None = None, **kwargs: Any
) -> Mask:
    """The mask of one kind of layers, or what stands in its place.

    Args:
        base: the attention that the model ran before.
        kv_offset: the position of the first key; a `PlannedOffset` where a bounded cache decides.
        pattern: what queries may see besides, if there is one.
        kwargs: what else transformers gives a mask function.

    Raises:
        CacheError: when a policy or a pattern decides and the model asks for a mask that is not
            that of causal text, or the cache has empty slots.
        InputError: when the attention mask does not fit the tokens so far.
    """
    given = kwargs.get("attention_mask")
    if isinstance(given, (Attending, Patterned, Shown)):
        return _given(given, kv_offset, pattern)
    if pattern is None and not isinstance(kv_offset, PlannedOffset):
        own: Tensor | None = AttentionMaskInterface()[base](kv_offset=kv_offset, **kwargs)
        return own
    return _decided(base, kv_offset, pattern, **kwargs)


@uncompiled
def _decided(base: str, kv_offset: int | Tensor, pattern: Pattern | None, **kwargs: Any) -> Mask:
    """What stands in place of a mask where a bounded cache, a pattern or both decide."""
    blocks = None
    if (deviation := deviates(**kwargs)) is not None:
        if pattern is None:
            blocks = image_blocks(**kwargs)
        if blocks is None:
            raise CacheError(
                f"the model asks for {deviation} in layers where a policy or a pattern decides; "
                "only causal text is supported there, and under a policy by position images whose "
                "tokens see each other. Feed such tokens with a DynamicCache."
            )
    if isinstance(kv_offset, PlannedOffset):
        planner = kv_offset.planner
        visible = planner.begin(
            kwargs["q_length"],
            kwargs["batch_size"],
            kwargs["attention_mask"],
            kwargs["device"],
            pattern,
            blocks,
        )
        if base == "eager":
            log_slow_path(
                "attention",
                "steps of one token run on the model's eager attention, which is slower than sdpa. "
                "Call model.set_attn_implementation('sdpa') if the model supports it and you need "
                "no attention weights.",
            )
        # Eager attention may be asked for its weights, and flex takes other masks. Under a pattern,
        # whatever is not `Shown` was made elsewhere, and attention refuses it.
        show = base != "sdpa" or pattern is not None
        return Shown(visible, planner.columns) if show else visible
    assert pattern is not None
    return _patterned(pattern, int(kv_offset), **kwargs)


def _given(
    made: Attending | Patterned | Shown, kv_offset: int | Tensor, pattern: Pattern | None
) -> Mask:
    """A mask that was made before by `mask` and comes back, as PaliGemma hands it on."""
    if isinstance(made, Patterned):
        fits = pattern is not None and not isinstance(kv_offset, PlannedOffset)
    else:
        visible = made.visible if isinstance(made, Shown) else made
        fits = isinstance(kv_offset, PlannedOffset) and kv_offset.planner.awaits(visible)
    if not fits:
        raise CacheError(
            "attention_mask was made for another forward pass, or for another cache. Make it right "
            "before the pass, or pass a 2-D attention_mask or none."
        )
    return made


def _patterned(
    pattern: Pattern,
    first: int,
    *,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor,
    batch_size: int,
    attention_mask: Tensor | None,
    **_: object,
) -> Patterned:
    count = int(q_offset) + q_length
    if attention_mask is not None and (attention_mask.ndim != 2 or attention_mask.shape[1] < count):
        raise InputError(
            f"attention_mask is {tuple(attention_mask.shape)}; expected two dimensions, with one "
            f"column for each of the {count} tokens so far."
        )
    if count != first + kv_length:
        raise CacheError(
            f"queries end at {count} and keys at {first + kv_length}; a pattern needs a cache "
            "without empty slots: a DynamicCache or a bounded one, not a static one."
        )
    seen = shifted(causal() & pattern, first)
    if attention_mask is not None:
        real = attention_mask[:, first : first + kv_length].bool()
        if not bool(real.all()):
            seen = seen & padding(real)
    return Patterned(seen, (batch_size, 1, q_length, kv_length))
