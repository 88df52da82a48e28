"""Libraries that turn text into ids: tokenizers, or a faster one that gave the same ids."""

from transom.tokens.backends.base import Backend
from transom.tokens.backends.choose import BackendChoice, backends, choose_backend
from transom.tokens.backends.reference import Reference

__all__ = ["Backend", "BackendChoice", "Reference", "backends", "choose_backend"]
