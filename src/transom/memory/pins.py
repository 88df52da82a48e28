"""A context that stays while somebody reads it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pin"]


class Pin:
    """Keeps a context from being evicted until the pin is closed.

    It is closed by `close`, at the end of a `with`, with the last reference to it, or with its
    process. So pins do not leak.

    Args:
        value: what is pinned.
        release: notes that the pin was closed. The garbage collector may call it at any time, so it
            must not do more.
        unpin: acts on such notes; called by `close`.

    Attributes:
        value: the ids that are pinned, `(tokens,)`, read-only.
    """

    def __init__(
        self, value: NDArray[np.generic], release: Callable[[], object], unpin: Callable[[], object]
    ) -> None:
        self.value = value
        self._release = weakref.finalize(self, release)
        self._unpin = unpin

    @property
    def closed(self) -> bool:
        """Whether the pin was closed."""
        return not self._release.alive

    def close(self) -> None:
        """Close the pin; calling it again does nothing."""
        if self._release.alive:
            self._release()
            self._unpin()

    def __enter__(self) -> NDArray[np.generic]:
        return self.value

    def __exit__(self, *error: object) -> None:
        self.close()
