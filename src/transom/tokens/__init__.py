"""Text and token ids; without torch."""

from transom.tokens.buffer import TokenBuffer
from transom.tokens.ids import ANY_VOCABULARY, as_ids, check_ids, id_dtype
from transom.tokens.pieces import pieces
from transom.tokens.text import tokenize_text
from transom.tokens.tokenizer import IncrementalTokenizer

__all__ = [
    "ANY_VOCABULARY",
    "IncrementalTokenizer",
    "TokenBuffer",
    "as_ids",
    "check_ids",
    "id_dtype",
    "pieces",
    "tokenize_text",
]
