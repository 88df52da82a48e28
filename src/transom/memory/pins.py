"""A context or state that stays while somebody reads it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

__all__ = ["Pin"]


class Pin:
    """Keeps what it holds from being evicted until it is closed, left as a `with`, or forgotten.

    A pin that nobody closes ends with the last reference to it, with its thread, or with its
    process, so pins do not leak.

    Attributes:
        value: what was pinned, read-only.
    """

    def __init__(
        self, value: NDArray[Any], release: Callable[[], object], settle: Callable[[], object]
    ) -> None:
        self.value = value
        # May be called by the garbage collector in the middle of anything, so it only makes a note.
        self._release = weakref.finalize(self, release)
        self._settle = settle

    @property
    def closed(self) -> bool:
        """Whether it keeps nothing any longer."""
        return not self._release.alive

    def close(self) -> None:
        """Let go; again, and nothing happens."""
        if self._release.alive:
            self._release()
            self._settle()

    def __enter__(self) -> NDArray[Any]:
        return self.value

    def __exit__(self, *error: object) -> None:
        self.close()
