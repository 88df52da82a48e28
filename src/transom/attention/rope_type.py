"""Which kind of rotary positions a config names."""

from __future__ import annotations

from transformers import PretrainedConfig

__all__ = ["rope_type"]


def rope_type(config: PretrainedConfig) -> str | None:
    """The `rope_type` of a config, such as `"default"`; None where it names no rotary positions."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or getattr(config, "alibi", False):
        return None
    if "full_attention" in parameters:
        parameters = parameters["full_attention"] or {}
    return str(parameters.get("rope_type", "default"))
