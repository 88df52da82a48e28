"""The special tokens that a tokenizer puts around a text."""

from __future__ import annotations

from typing import Any

from transom.errors import InputError

__all__ = ["special_before"]

SAMPLE = "a"


def special_before(tokenizer: Any) -> list[int]:
    """Ids that a tokenizer of transformers puts before every text, such as that of `<s>`.

    Raises:
        InputError: when it does more to a text than put tokens around it.
    """
    made, plain = (
        list(tokenizer(SAMPLE, add_special_tokens=special, verbose=False).input_ids)
        for special in (True, False)
    )
    for start in range(len(made) - len(plain) + 1):
        if made[start : start + len(plain)] == plain:
            return made[:start]
    raise InputError(
        f"this tokenizer makes {made} of {SAMPLE!r} with special tokens and {plain} without, so "
        "what it puts before a text cannot be told; append token ids instead."
    )
