from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

import transom.plugins
from transom.errors import InputError
from transom.windows import (
    ContextWindow,
    ContextWindowFactory,
    HierarchicalContext,
    MemoryEfficientContext,
    SlidingWindow,
)


class Mine(ContextWindow):
    """A window type that a user's package may register."""

    name = "mine"


class NotAWindow:
    """A class that it must not register."""


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    def registered(*values: str) -> None:
        entries = [EntryPoint(name=f"e{i}", value=v, group="g") for i, v in enumerate(values)]
        monkeypatch.setattr(transom.plugins, "entry_points", lambda group: entries)
        ContextWindowFactory.known.cache_clear()

    yield registered
    ContextWindowFactory.known.cache_clear()


def test_the_guides_four() -> None:
    create = ContextWindowFactory.create_window
    assert create("simple", max_length=9) == ContextWindow(9)
    assert create("sliding", window_size=8, stride=2) == SlidingWindow(8, 2)
    assert create("hierarchical", local_size=8) == HierarchicalContext(8)
    assert create("memory_efficient", chunk_size=8) == MemoryEfficientContext(chunk_size=8)


def test_errors_list_what_is_known() -> None:
    known = "known types: simple, sliding, hierarchical, memory_efficient"
    with pytest.raises(InputError, match=f"'simpel'; {known}"):
        ContextWindowFactory.create_window("simpel")
    with pytest.raises(InputError, match="no argument 'size'; they take max_length, pinned"):
        ContextWindowFactory.create_window("simple", size=3)


def test_a_package_can_register_its_own(register: object) -> None:
    register(f"{__name__}:Mine")  # type: ignore[operator]
    assert type(ContextWindowFactory.create_window("mine", max_length=3)) is Mine


def test_names_are_taken_once(register: object) -> None:
    register("transom.windows:SlidingWindow")  # type: ignore[operator]
    with pytest.raises(InputError, match="registers 'sliding', which"):
        ContextWindowFactory.known()


def test_only_windows_can_be_registered(register: object) -> None:
    register(f"{__name__}:NotAWindow")  # type: ignore[operator]
    with pytest.raises(InputError, match="expected a subclass of"):
        ContextWindowFactory.known()
