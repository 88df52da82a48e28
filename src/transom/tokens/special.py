"""The special tokens that a tokenizer puts around a text."""

from __future__ import annotations

from collections.abc import Iterator

from transom.errors import InputError
from transom.tokens.protocols import TextTokenizer

__all__ = ["special_before"]

SAMPLE = "a"


def special_before(tokenizer: TextTokenizer) -> list[int]:
    """The ids that a tokenizer of transformers puts before every text, such as that of `<s>`.

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


def _samples(tokenizer: TextTokenizer) -> Iterator[tuple[str, list[int]]]:
    """Sample texts with their ids; texts without ids, as of a letter it lacks, are left out."""
    if ids := _ids(tokenizer, SAMPLE, special=False):
        yield SAMPLE, ids
    special = set(tokenizer.all_special_ids)
    for token in range(len(tokenizer)):
        if token not in special:
            sample = tokenizer.decode([token])
            if ids := _ids(tokenizer, sample, special=False):
                yield sample, ids


def _ids(tokenizer: TextTokenizer, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
