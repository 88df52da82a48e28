"""The special tokens that a tokenizer puts around a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transom.errors import InputError

__all__ = ["special_before"]

SAMPLE = "a"


def special_before(tokenizer: Any) -> list[int]:
    """Ids that a tokenizer of transformers puts before every text, such as that of `<s>`.

    Raises:
        InputError: when it does more to a text than put tokens around it.
    """
    sample, plain = next(_samples(tokenizer), (SAMPLE, []))
    made = _ids(tokenizer, sample, special=True)
    for start in range(len(made) - len(plain) + 1) if plain else ():
        if made[start : start + len(plain)] == plain:
            return made[:start]
    raise InputError(
        f"this tokenizer makes {made} of {sample!r} with special tokens and {plain} without, so "
        "what it puts before a text cannot be told; append token ids instead."
    )


def _samples(tokenizer: Any) -> Iterator[tuple[str, list[int]]]:
    """Texts with their ids; not those that have none, where the vocabulary lacks the letter."""
    if ids := _ids(tokenizer, SAMPLE, special=False):
        yield SAMPLE, ids
    special = set(tokenizer.all_special_ids)
    for token in range(len(tokenizer)):
        if token not in special:
            sample = tokenizer.decode([token])
            if ids := _ids(tokenizer, sample, special=False):
                yield sample, ids


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
