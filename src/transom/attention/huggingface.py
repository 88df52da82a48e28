"""Switches transom's attention on and off in a transformers model, through its registries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from threading import Lock
from typing import Protocol, TypeVar

from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig

from transom.attention.attention_function import attention
from transom.attention.mask_function import mask
from transom.attention.patterns import Pattern, parse_pattern
from transom.attention.patterns import pattern as as_pattern
from transom.attention.versions import warn_if_untested
from transom.errors import UnsupportedModelError
from transom.policies import Policy

__all__ = ["follows_pattern", "select_attention", "use_pattern"]

PREFIX = "transom|"
BASES = ("sdpa", "eager", "flex_attention")


class HasConfig(Protocol):
    """A model of transformers, or a wrapper around one."""

    @property
    def config(self) -> PretrainedConfig: ...


ModelT = TypeVar("ModelT", bound=HasConfig)


class Selected(str):
    """The name of transom's attention in the config of one model.

    A copy of the config may be for another model, for a file or for another process, so it gets the
    name of the attention that was there before.
    """

    def __deepcopy__(self, memo: dict[int, object]) -> str:
        return self._former

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (self._former,)

    @property
    def _former(self) -> str:
        return self.removeprefix(PREFIX).partition("|")[0]


def select_attention(config: PretrainedConfig) -> None:
    """Make the model of `config` use transom's attention where a bounded cache asks for it.

    Changes `config` as `model.set_attn_implementation` does: `config._attn_implementation` becomes
    `"transom|sdpa"`, or whatever the former name is after `transom|`. Without a bounded cache the
    former attention runs unchanged, and for every step of one token too; but where that is
    `flex_attention`, `sdpa` runs these steps, or `eager` if the model caps its scores or has
    learned sinks. To undo it, call `model.set_attn_implementation("sdpa")`. A copy of the config
    has the former name.

    Raises:
        UnsupportedModelError: when the model runs an attention other than `sdpa`, `eager` or
            `flex_attention`.
    """
    warn_if_untested()
    if config._attn_implementation is None or config._attn_implementation.startswith(PREFIX):
        return
    base = _base_of(config._attn_implementation)
    name = Selected(PREFIX + base)
    AttentionInterface.register(name, partial(attention, base=base))
    AttentionMaskInterface.register(name, partial(mask, base=base))
    config._attn_implementation = name


@contextmanager
def use_pattern(model: ModelT, pattern: Pattern | Policy | str) -> Iterator[ModelT]:
    """While open, every attention layer of a causal language model also follows a pattern.

    A query then sees a key only if the pattern lets it through and the model would let it through
    anyway: the key is not later, is no padding, is within the layer's own sliding window if it has
    one, and is kept by the bounded cache if there is one. Everything counts by position in the
    text. Prompts run through the block-sparse kernel, and gradients flow. Afterwards the model's
    attention is as before. Contexts can be nested; the inner one counts.

    Args:
        model: a transformers causal language model; only `model.config` is changed.
        pattern: a pattern, a policy, or the text of either.

    Yields:
        The model.

    Raises:
        UnsupportedModelError: when the model runs an attention other than `sdpa`, `eager` or
            `flex_attention`.
    """
    warn_if_untested()
    if isinstance(pattern, str):
        pattern = parse_pattern(pattern)
    pattern = as_pattern(pattern) if isinstance(pattern, Policy) else pattern
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    base = _base_of(before)
    with _number() as number:
        name = Selected(f"{PREFIX}{base}|{number}")
        AttentionInterface.register(name, partial(attention, base=base, patterned=True))
        AttentionMaskInterface.register(name, partial(mask, base=base, pattern=pattern))
        config._attn_implementation = name
        try:
            yield model
        finally:
            config._attn_implementation = before
            AttentionMaskInterface.register(name, partial(mask, base=base))  # forget the pattern


def follows_pattern(config: PretrainedConfig) -> bool:
    """Whether the model of `config` is inside `use_pattern` now."""
    return (config.get_text_config(decoder=True)._attn_implementation or "").count("|") > 1


_numbers: set[int] = set()
_numbering = Lock()


@contextmanager
def _number() -> Iterator[int]:
    """A number that no other open pattern has. Used again, since registries keep names for ever."""
    with _numbering:
        number = next(number for number in count(1) if number not in _numbers)
        _numbers.add(number)
    try:
        yield number
    finally:
        _numbers.discard(number)


def _base_of(implementation: str | None) -> str:
    base = (implementation or "None").removeprefix(PREFIX).partition("|")[0]
    if base not in BASES:
        raise UnsupportedModelError(
            f"the model runs {implementation!r} attention, which takes no mask for each key; "
            f"transom needs one of {', '.join(BASES)}: call model.set_attn_implementation('sdpa') "
            "first, or 'eager' if the model does not support 'sdpa'."
        )
    return base
