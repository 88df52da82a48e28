"""Texts in pieces."""

from __future__ import annotations

import random


def split(text: str, chance: random.Random) -> list[str]:
    """Cut a text into pieces, some of which are empty."""
    count = chance.randint(0, min(12, len(text) + 1))
    cuts = sorted(chance.randint(0, len(text)) for _ in range(count))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
