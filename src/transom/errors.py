"""Every error transom raises on purpose, in one tree.

```
TransomError
├── PolicyError            (ValueError)    a policy's text or parameters make no sense
├── InputError             (ValueError)    what was appended, scored or asked for cannot be used
├── CacheError             (RuntimeError)  the cache was asked for something it cannot do exactly
├── StateError             (ValueError)    a saved state is damaged, or was made for something else
├── CorpusError            (RuntimeError)  a corpus on disk cannot be read or written as asked
│   ├── CorpusBusyError                    another process is writing to it
│   └── CorpusDamageError                  what is on disk is not what was committed
├── BudgetError            (MemoryError)   something does not fit the bytes that it may take
├── StoreError             (OSError)       a folder of contexts cannot be used
├── ModelError
│   ├── ModelNotFoundError (OSError)       the name resolves to nothing that can be loaded here
│   └── UnsupportedModelError (ValueError) the architecture cannot be bounded without being wrong
└── MissingExtraError      (ImportError)   an optional part of transom is not installed
```

Each one also derives from the builtin that plain Python code would have raised, so an
`except ValueError` written before transom came along keeps working. A message says what
came, what was expected, and what to do next.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CacheError",
    "CorpusBusyError",
    "CorpusDamageError",
    "CorpusError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "ModelNotFoundError",
    "PolicyError",
    "StateError",
    "StoreError",
    "TransomError",
    "UnsupportedModelError",
]


class TransomError(Exception):
    """The root: `except TransomError` catches everything transom raises on purpose."""


class PolicyError(TransomError, ValueError):
    """A policy's text or parameters make no sense."""


class InputError(TransomError, ValueError):
    """Tokens, text, messages or settings that cannot be used; nothing was changed."""


class CacheError(TransomError, RuntimeError):
    """The cache cannot do what was asked without giving a wrong answer."""


class StateError(TransomError, ValueError):
    """A saved state that is damaged, cannot be read or written, or was made for something else."""


class CorpusError(TransomError, RuntimeError):
    """A corpus on disk cannot be read or written as asked; what was committed stays as it is."""


class CorpusBusyError(CorpusError):
    """Another process is writing to the corpus, and there is one writer at a time."""


class CorpusDamageError(CorpusError):
    """What is on disk is not what was committed; the message names file, block and bytes."""


class BudgetError(TransomError, MemoryError):
    """Something does not fit the bytes it may take; nothing was changed."""


class StoreError(TransomError, OSError):
    """A folder of contexts that cannot be opened, read or written."""


class ModelError(TransomError):
    """An error about the model itself."""


class ModelNotFoundError(ModelError, OSError):
    """A model's name resolves to nothing that can be loaded from here."""


class UnsupportedModelError(ModelError, ValueError):
    """A model whose architecture cannot be bounded without being silently wrong."""


class MissingExtraError(TransomError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""
