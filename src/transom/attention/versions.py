"""What differs between releases of transformers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from typing import Final, Protocol

import transformers
from transformers.utils import output_capturing

__all__ = ["cache_argument", "collects", "warn_if_untested"]

TESTED: Final = ((5, 22), (5, 24))  # the first and the last minor release
RENAMED: Final = (5, 24)  # since this one, models take a cache by the name `cache`


class HasForward(Protocol):
    """A model, or a wrapper around one."""

    @property
    def forward(self) -> Callable[..., object]: ...


@cache
def warn_if_untested() -> None:
    """Warn, once per process, where transformers is newer than the last release tested here."""
    _, last = TESTED
    if _release() > last:
        warnings.warn(
            f"transformers {transformers.__version__} is newer than {_text(last)}, the last that "
            "this transom was tested with. If something fails, update transom or run: pip install "
            f"'transformers~={_text(last)}.0'.",
            stacklevel=3,
        )


def cache_argument(model: HasForward) -> str:
    """The name by which `model.forward` takes a cache: `"cache"` or `"past_key_values"`."""
    known = inspect.signature(model.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in known:
            return name
    # A wrapper that hands its arguments on, such as PEFT's.
    return "cache" if _release() >= RENAMED else "past_key_values"


def collects(name: str) -> bool:
    """Whether transformers is collecting what modules return for an output of this name."""
    collector = getattr(output_capturing, "_active_collector", None)
    gathered = None if collector is None else collector.get()
    return gathered is not None and name in gathered


def _release() -> tuple[int, int]:
    major, minor = transformers.__version__.split(".")[:2]
    return int(major), int(minor)


def _text(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))
