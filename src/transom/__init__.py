"""transom keeps a language model's context inside a budget you set.

Policies and token windows work without torch; what needs it is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transom.corpus import TokenCorpus
from transom.corpus.datasets import register_dataset
from transom.errors import MissingExtraError, TransomError
from transom.memory import ContextMemoryManager
from transom.monitor import ContextWindowMonitor
from transom.policies import (
    TOVA,
    Chunked,
    ExpectedAttention,
    Full,
    HeavyHitters,
    Hierarchical,
    KeyDiff,
    KeyNorm,
    Policy,
    Positional,
    Scored,
    Sinks,
    SnapKV,
    Window,
    parse,
)
from transom.windows import (
    ContextWindow,
    ContextWindowFactory,
    HierarchicalContext,
    MemoryEfficientContext,
    SlidingWindow,
)

if TYPE_CHECKING:
    from transom.context import Context, Step, Usage
    from transom.kv import BoundedCache

__version__ = "0.1.0"

__all__ = [
    "TOVA",
    "BoundedCache",
    "Chunked",
    "Context",
    "ContextMemoryManager",
    "ContextWindow",
    "ContextWindowFactory",
    "ContextWindowMonitor",
    "ExpectedAttention",
    "Full",
    "HeavyHitters",
    "Hierarchical",
    "HierarchicalContext",
    "KeyDiff",
    "KeyNorm",
    "MemoryEfficientContext",
    "Policy",
    "Positional",
    "Scored",
    "Sinks",
    "SlidingWindow",
    "SnapKV",
    "Step",
    "TokenCorpus",
    "TransomError",
    "Usage",
    "Window",
    "parse",
]

_NEED_TORCH = {
    "BoundedCache": "transom.kv",
    "Context": "transom.context",
    "Step": "transom.context",
    "Usage": "transom.context",
}


def _import(module: str, name: str, what: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise MissingExtraError(
            f"{what} needs {error.name}, which is not installed; run: pip install 'transom[torch]'."
        ) from error


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'transom' has no attribute {name!r}")
    return _import(_NEED_TORCH[name], name, f"transom.{name}")


def _torch_dataset(corpus: TokenCorpus, size: int, **settings: Any) -> Any:
    make = _import("transom.torch_data", "WindowDataset", "torch_dataset")
    return make(corpus, size, **settings)


def _torch_stream(corpus: TokenCorpus, size: int, **settings: Any) -> Any:
    make = _import("transom.torch_data", "WindowStream", "torch_stream")
    return make(corpus, size, **settings)


# The corpus knows nothing of torch; this module is above both, and runs before either.
register_dataset("torch_dataset", _torch_dataset)
register_dataset("torch_stream", _torch_stream)


def __dir__() -> list[str]:
    return sorted(__all__)
