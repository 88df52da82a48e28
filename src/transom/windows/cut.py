"""How tokens are cut into overlapping windows: settings and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["Cut", "Side"]

Side = Literal["left", "right"]

OWNER = "SlidingWindow"  # whose arguments these are


@known_keywords
@dataclass(frozen=True)
class Cut:
    """Windows of `size` ids whose contents start `stride` tokens apart.

    A window is full when it has as many tokens as fit beside `bos_id` and `eos_id`. Every window
    but a document's last is full, and every window has a token that none before it had.

    Attributes:
        size: ids per window, padding and special ids included.
        stride: tokens from the start of one window to the start of the next.
        pad_id: what fills a window that is not full.
        padding_side: where.
        drop_last: leave out windows that are not full.
        bos_id, eos_id: put before and after the tokens of each window; None for neither.
        packed: windows go across the ends of documents.
    """

    size: int
    stride: int
    pad_id: int = 0
    padding_side: Side = "right"
    drop_last: bool = False
    bos_id: int | None = None
    eos_id: int | None = None
    packed: bool = False

    @classmethod
    def of(
        cls, size: int, stride: int | None, overlap: int | None, *, vocab_size: int, **others: Any
    ) -> Cut:
        """Settings that make sense: by default windows overlap by half of `size`.

        Raises:
            InputError: on those that do not.
        """
        size = whole_number(OWNER, "window_size", size, 1)
        for name in ("pad_id", "bos_id", "eos_id"):
            value = others[name]
            if value is not None or name == "pad_id":
                others[name] = whole_number(OWNER, name, value, 0, unit="an id")
                if value >= vocab_size:
                    raise InputError(
                        f"{OWNER}: {name} is {value}; the vocabulary has 0 to {vocab_size - 1}."
                    )
        if others["padding_side"] not in get_args(Side):
            raise InputError(
                f"{OWNER}: padding_side is {others['padding_side']!r}; expected 'left' or 'right'."
            )
        content = size - (others["bos_id"] is not None) - (others["eos_id"] is not None)
        if content < 1:
            raise InputError(
                f"{OWNER}: window_size is {size}; expected room for a token beside bos and eos."
            )
        if stride is not None and overlap is not None:
            raise InputError(
                f"{OWNER}: stride is {stride} and overlap {overlap}; expected one of them, "
                "as stride + overlap = the tokens that fit into a window."
            )
        if overlap is not None:
            stride = content - whole_number(OWNER, "overlap", overlap, 0)
            if stride < 1:
                raise InputError(
                    f"{OWNER}: overlap is {overlap} and a window has {content} tokens; expected "
                    "a smaller overlap, as each window must bring a new token."
                )
        elif stride is None:
            stride = min(content, max(1, size // 2))
        stride = whole_number(OWNER, "stride", stride, 1)
        if stride > content:
            raise InputError(
                f"{OWNER}: stride is {stride} and a window has {content} tokens; the tokens "
                "between windows would be lost, so expected stride <= that."
            )
        return cls(size, stride, **others)

    @property
    def lead(self) -> int:
        """How many ids stand before a window's tokens: 1 with `bos_id`, else 0."""
        return int(self.bos_id is not None)

    @property
    def content(self) -> int:
        """Tokens of a full window."""
        return self.size - self.lead - (self.eos_id is not None)

    @property
    def overlap(self) -> int:
        """Tokens that a window shares with the one before it."""
        return self.content - self.stride

    def full(self, tokens: Any) -> Any:
        """How many full windows a document of that many tokens has; elementwise."""
        return np.maximum(0, (tokens - self.content) // self.stride + 1)

    def count(self, tokens: Any) -> Any:
        """How many windows a document of that many tokens has; elementwise.

        >>> Cut(size=4, stride=2).count(np.array([0, 1, 4, 5, 6, 7]))
        array([0, 1, 1, 2, 2, 3])
        """
        full = self.full(tokens)
        if self.drop_last:
            return full
        covered = np.where(full > 0, (full - 1) * self.stride + self.content, 0)
        return full + (tokens > covered)
