"""Rotations are those of the models, and what cannot be rotated is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    DeepseekV3Config,
    GlmConfig,
    GPT2Config,
    LlamaConfig,
    MllamaTextConfig,
    ViTConfig,
)

from tests.helpers.models import CONFIGS
from transom.attention.rotary import Rotary
from transom.attention.trial import model_class
from transom.errors import UnsupportedModelError

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 512,
}
KNOWN = {
    **CONFIGS,
    "glm": GlmConfig(head_dim=32, num_attention_heads=2),
    "cohere": CohereConfig(hidden_size=64, num_attention_heads=2),
    "yarn": LlamaConfig(hidden_size=64, num_attention_heads=2, rope_parameters=YARN),
}


@pytest.mark.parametrize("family", KNOWN)
def test_rotates_as_the_model_does(family: str) -> None:
    """A key that the model rotated to position 5, rotated by 90, is what it gives for 95."""
    config = KNOWN[family]
    rotary = Rotary.from_config(config)
    module = sys.modules[model_class(config).__module__]
    embedding_class = next(v for n, v in vars(module).items() if n.endswith("RotaryEmbedding"))
    layer = ["full_attention"] if "full_attention" in config.rope_parameters else []
    embedding = embedding_class(config)
    x = torch.randn(1, 2, 1, rotary.dim)
    placed = {
        position: module.apply_rotary_pos_emb(
            x, x, *embedding(x, torch.tensor([[position]]), *layer)
        )[1]
        for position in (5, 95)
    }
    rotated = rotary.rotate(placed[5], *rotary.angles(torch.tensor(90)))
    torch.testing.assert_close(rotated, placed[95], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_matrix_rotates_as_rotate_does_and_leaves_the_rest(interleaved: bool) -> None:
    rotary = Rotary(torch.tensor([1.0, 0.1, 0.003], dtype=torch.float64), interleaved)
    x, by = torch.randn(2, 4, 10), torch.tensor([7, -300])
    cos, sin = rotary.angles(by)
    rotated = rotary.rotate(x, cos[:, None], sin[:, None])
    torch.testing.assert_close(x @ rotary.matrix(by, 10), rotated, atol=1e-5, rtol=1e-5)
    assert torch.equal(rotated[..., 6:], x[..., 6:])
    torch.testing.assert_close(rotated.norm(), x.norm())


def test_a_million_positions_away_and_back() -> None:
    rotary = Rotary.from_config(CONFIGS["llama"])
    x = torch.randn(3, 8)
    there = rotary.rotate(x, *rotary.angles(torch.tensor(1_000_003)))
    back = rotary.rotate(there, *rotary.angles(torch.tensor(-1_000_000)))
    torch.testing.assert_close(
        back, rotary.rotate(x, *rotary.angles(torch.tensor(3))), atol=1e-5, rtol=1e-5
    )


def test_bfloat16_in_bfloat16_out() -> None:
    rotary = Rotary.from_config(CONFIGS["llama"])
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert rotary.rotate(x, *rotary.angles(torch.tensor(3))).dtype == torch.bfloat16


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 1e4, **more}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GPT2Config(), "learned absolute positions"),
        (LlamaConfig(rope_parameters=rope("dynamic", factor=2.0)), "'dynamic'"),
        (
            LlamaConfig(
                rope_parameters=rope(
                    "longrope",
                    factor=2.0,
                    original_max_position_embeddings=512,
                    short_factor=[1.0] * 64,
                    long_factor=[2.0] * 64,
                )
            ),
            "'longrope'",
        ),
        (ViTConfig(rope_parameters=rope("default")), "cannot be run without weights"),
        (MllamaTextConfig(), "no causal language model"),
    ],
)
def test_positions_that_cannot_be_bounded_are_refused(config: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        Rotary.from_config(config)


def test_latent_attention_rotates_the_part_behind_the_others() -> None:
    config = DeepseekV3Config(num_hidden_layers=2)
    rotary = Rotary.from_config(config)
    assert rotary.dim == config.qk_rope_head_dim
    assert rotary.query_start == config.qk_nope_head_dim
    query = torch.randn(3, config.qk_nope_head_dim + config.qk_rope_head_dim)
    angles = rotary.angles(torch.tensor(7))
    found = rotary.rotate_queries(query, *angles)
    assert torch.equal(found[:, : rotary.query_start], query[:, : rotary.query_start])
    expected = rotary.rotate(query[:, rotary.query_start :], *angles)
    assert torch.equal(found[:, rotary.query_start :], expected)
