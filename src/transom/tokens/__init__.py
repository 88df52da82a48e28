"""Text and token ids; without torch."""

from transom.tokens.buffer import TokenBuffer
from transom.tokens.ids import ANY_VOCABULARY, as_ids, check_ids, id_dtype
from transom.tokens.pieces import pieces

__all__ = ["ANY_VOCABULARY", "TokenBuffer", "as_ids", "check_ids", "id_dtype", "pieces"]
