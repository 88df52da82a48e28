"""Text and token ids; without torch."""

from transom.tokens.buffer import TokenBuffer
from transom.tokens.encoder import Encoder
from transom.tokens.files import documents, tokenize_files
from transom.tokens.fingerprint import differences, fingerprint
from transom.tokens.ids import ANY_VOCABULARY, TokenIds, as_ids, check_ids, id_dtype
from transom.tokens.pieces import pieces
from transom.tokens.runs import TokenRuns
from transom.tokens.stream import TokenStream
from transom.tokens.text import tokenize_text
from transom.tokens.tokenizer import IncrementalTokenizer

__all__ = [
    "ANY_VOCABULARY",
    "Encoder",
    "IncrementalTokenizer",
    "TokenBuffer",
    "TokenIds",
    "TokenRuns",
    "TokenStream",
    "as_ids",
    "check_ids",
    "differences",
    "documents",
    "fingerprint",
    "id_dtype",
    "pieces",
    "tokenize_files",
    "tokenize_text",
]
