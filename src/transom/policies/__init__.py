"""Policies: which past tokens a new token may see, as small frozen values without tensors."""

import warnings

from transom.policies.base import Policy
from transom.policies.chunked import Chunked
from transom.policies.cost import attention_flops, kv_bytes, kv_bytes_bound
from transom.policies.expected_attention import ExpectedAttention
from transom.policies.full import Full
from transom.policies.heavy_hitters import HeavyHitters
from transom.policies.hierarchical import Hierarchical
from transom.policies.key_norm import KeyNorm
from transom.policies.keydiff import KeyDiff
from transom.policies.parse import parameters, parse
from transom.policies.positional import Positional, Span
from transom.policies.precision import Precision
from transom.policies.registry import known
from transom.policies.scored import FutureQueries, Kept, Scored
from transom.policies.shape import ModelShape
from transom.policies.sinks import Sinks
from transom.policies.snapkv import SnapKV
from transom.policies.tova import TOVA
from transom.policies.window import Window

__all__ = [
    "TOVA",
    "Chunked",
    "ExpectedAttention",
    "Full",
    "FutureQueries",
    "HeavyHitters",
    "Hierarchical",
    "Kept",
    "KeyDiff",
    "KeyNorm",
    "ModelShape",
    "Policy",
    "Positional",
    "Precision",
    "Scored",
    "Sinks",
    "SnapKV",
    "Span",
    "Window",
    "attention_flops",
    "known",
    "kv_bytes",
    "kv_bytes_bound",
    "parameters",
    "parse",
]


def __getattr__(name: str) -> type[FutureQueries]:
    if name == "Coming":
        warnings.warn(
            "transom.policies.Coming is now called FutureQueries; use that name.",
            DeprecationWarning,
            stacklevel=2,
        )
        return FutureQueries
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
