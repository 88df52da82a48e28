"""Small random models whose attention caps scores or has learned sinks, so that both matter."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.helpers.models import GROUPED

SLIDING_FIRST = ["sliding_attention", "full_attention", "full_attention"]
MIXED = {**GROUPED, "head_dim": 8, "sliding_window": 8, "layer_types": SLIDING_FIRST}
CAPPED = {**MIXED, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 3.0}
# All of the experts: which of two equals is taken would depend on rounding.
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma2": CAPPED,
    "vaultgemma": CAPPED,
    "gpt_oss": {**MIXED, "num_local_experts": 4, "num_experts_per_tok": 4},
    "granite_swa": {**MIXED, "attention_multiplier": 0.35},
    "granitemoe_swa": {
        **MIXED,
        "attention_multiplier": 0.35,
        "num_local_experts": 4,
        "num_experts_per_tok": 4,
    },
    "flint": {
        **MIXED,
        **EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 16,
        "mlp_only_layers": [0],
    },
    # Only its sliding layers have sinks; and keys and values differ in size.
    "mimo_v2_flash": {**MIXED, **EXPERTS, "n_routed_experts": 4, "v_head_dim": 6, "head_dim": 12},
}
RULED = list(SETTINGS)
BOTH = ["gemma2", "gpt_oss"]  # one that caps, one that has sinks


def ruled(kind: str, *, sliding: bool = True) -> Any:
    """A model of its own for the caller, always with the same weights.

    With `sliding` false, every layer has full attention.
    """
    return copy.deepcopy(_made(kind, sliding))


@cache
def _made(kind: str, sliding: bool) -> Any:
    layers = SLIDING_FIRST if sliding else ["full_attention"] * 3
    config = CONFIG_MAPPING[kind](**{**SETTINGS[kind], "layer_types": layers})
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            parameter.data = 2 * torch.randn(parameter.shape, generator=generator)
    return model
