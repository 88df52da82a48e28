"""Text and token ids; without torch."""

from transom.tokens.ids import as_ids
from transom.tokens.pieces import pieces

__all__ = ["as_ids", "pieces"]
