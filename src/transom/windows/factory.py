"""Windows by name: those of transom, and those that installed packages register."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from transom.errors import InputError
from transom.plugins import plugins
from transom.windows.base import TokenState
from transom.windows.chunked import MemoryEfficientContext
from transom.windows.context import ContextWindow
from transom.windows.hierarchical import HierarchicalContext
from transom.windows.sliding import SlidingWindow

__all__ = ["ContextWindowFactory"]

BUILT_IN: tuple[type[TokenState], ...] = (
    ContextWindow,
    SlidingWindow,
    HierarchicalContext,
    MemoryEfficientContext,
)
ENTRY_POINTS = "transom.windows"


class ContextWindowFactory:
    """Makes windows by name, for use with config files.

    >>> ContextWindowFactory.create_window("sliding", window_size=8, stride=4)
    <SlidingWindow(window_size=8, stride=4): 0 of 0 tokens, 0 bytes>
    """

    @staticmethod
    def create_window(window_type: str, **kwargs: Any) -> TokenState:
        """Make a window of a type; `kwargs` are the arguments of its constructor.

        Raises:
            InputError: when the type or an argument is unknown (the message lists the known ones),
                or an argument makes no sense.
        """
        types = ContextWindowFactory.known()
        if window_type not in types:
            raise InputError(
                f"unknown window type {window_type!r}; known types: {', '.join(types)}."
            )
        takes = inspect.signature(types[window_type]).parameters
        for name in kwargs:
            if name not in takes:
                raise InputError(
                    f"{window_type} windows have no argument {name!r}; they take "
                    f"{', '.join(takes)}."
                )
        return types[window_type](**kwargs)

    @staticmethod
    @cache
    def known() -> Mapping[str, type[TokenState]]:
        """Every window type by name; packages register theirs under `transom.windows`.

        Raises:
            InputError: when two types have one name, or an entry point is not a `TokenState`.
        """
        return plugins(ENTRY_POINTS, TokenState, BUILT_IN, InputError)
