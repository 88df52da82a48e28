"""Policies: which past tokens a new token may see, as small frozen values without tensors."""

from transom.policies.base import Policy, Span
from transom.policies.chunked import Chunked
from transom.policies.cost import ModelShape, attention_flops, kv_bytes, kv_bytes_bound
from transom.policies.full import Full
from transom.policies.hierarchical import Hierarchical
from transom.policies.parse import known, parameters, parse
from transom.policies.sinks import Sinks
from transom.policies.window import Window

__all__ = [
    "Chunked",
    "Full",
    "Hierarchical",
    "ModelShape",
    "Policy",
    "Sinks",
    "Span",
    "Window",
    "attention_flops",
    "known",
    "kv_bytes",
    "kv_bytes_bound",
    "parameters",
    "parse",
]
