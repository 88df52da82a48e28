"""What turns text into ids: the tokenizers library, or a faster one that was seen to agree."""

from transom.tokens.backends.base import Backend
from transom.tokens.backends.choose import BackendChoice, backends, choose_backend
from transom.tokens.backends.reference import Reference

__all__ = ["Backend", "BackendChoice", "Reference", "backends", "choose_backend"]
