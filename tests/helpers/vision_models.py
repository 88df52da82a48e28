"""Small random models of text and images, with inputs made by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForImageTextToText

__all__ = ["FAMILIES", "Prompt", "prompt", "tiny_vision"]

IMAGE = 90  # the id of an image token
TEXT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {"model_type": "llama", **TEXT}
SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
QWEN = {
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2-vl": (
        "Qwen2VLConfig",
        {
            "text_config": {**TEXT, "rope_parameters": MROPE},
            "vision_config": {**QWEN, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
            **QWEN_IDS,
        },
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLConfig",
        {
            "text_config": {**TEXT, "rope_parameters": MROPE},
            "vision_config": {
                **QWEN,
                "hidden_size": 16,
                "out_hidden_size": 32,
                "intermediate_size": 16,
                "window_size": 8,
                "fullatt_block_indexes": [0],
            },
            **QWEN_IDS,
        },
    ),
    "qwen3-vl": (
        "Qwen3VLConfig",
        {
            "text_config": {**TEXT, "head_dim": 8, "rope_parameters": MROPE},
            "vision_config": {
                **QWEN,
                "hidden_size": 16,
                "out_hidden_size": 32,
                "intermediate_size": 16,
                "deepstack_visual_indexes": [0],
                "num_position_embeddings": 16,
            },
            **QWEN_IDS,
        },
    ),
    "smolvlm": (
        "SmolVLMConfig",
        {"text_config": LLAMA, "vision_config": SIGLIP, "image_token_id": IMAGE, "scale_factor": 1},
    ),
    "idefics3": (
        "Idefics3Config",
        {"text_config": LLAMA, "vision_config": SIGLIP, "image_token_id": IMAGE, "scale_factor": 1},
    ),
    "llava": (
        "LlavaConfig",
        {
            "text_config": LLAMA,
            "vision_config": {"model_type": "clip_vision_model", "projection_dim": 16, **SIGLIP},
            "image_token_index": IMAGE,
            "vision_feature_layer": -1,
        },
    ),
    "gemma3": (
        "Gemma3Config",
        {
            "text_config": {
                **TEXT,
                "num_hidden_layers": 2,
                "head_dim": 8,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            "vision_config": SIGLIP,
            "mm_tokens_per_image": 16,
            "image_token_index": IMAGE,
            "boi_token_index": 91,
            "eoi_token_index": 92,
        },
    ),
    "paligemma": (
        "PaliGemmaConfig",
        {
            "text_config": {"model_type": "gemma", **TEXT, "head_dim": 8},
            "vision_config": {
                "model_type": "siglip_vision_model",
                "vision_use_head": False,
                **SIGLIP,
            },
            "projection_dim": 32,
            "hidden_size": 32,
            "image_token_index": IMAGE,
        },
    ),
}


def tiny_vision(family: str, attention: str = "sdpa") -> Any:
    """A model whose text model has one layer that does something; its weights are always the same.

    Gemma 3 makes a mask for sliding layers, so it has one, which adds zeros.
    """
    name, settings = FAMILIES[family]
    config = getattr(transformers, name)(**settings)
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():  # a new projection of Gemma 3
            torch.nn.init.normal_(weight, std=0.3)
    for layer in model.model.get_decoder().layers[1:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


class Prompt(NamedTuple):
    """What a processor would give: ids, `(1, tokens)`, and what goes with them.

    Attributes:
        ids: the tokens.
        given: further arguments of the model.
        image: the span of the image tokens.
    """

    ids: Tensor
    given: dict[str, Tensor]
    image: slice


def prompt(family: str, before: int = 5, after: int = 14) -> Prompt:
    """An image of 16 tokens, with so many text tokens before and after it."""
    generator = torch.Generator().manual_seed(before + after)
    ids = torch.randint(3, 80, (1, before + 16 + after), generator=generator)
    image = slice(before, before + 16)
    ids[:, image] = IMAGE
    kinds = (ids == IMAGE).long()
    if family.startswith("qwen"):
        ids[0, before - 1] = 92
        pixels = torch.randn(64, 3 * 2 * 16, generator=generator)  # 8 x 8 patches, merged by 4
        grid = torch.tensor([[1, 8, 8]])
        given = {"pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": kinds}
        return Prompt(ids, given, image)
    shape = (1, 1, 3, 16, 16) if family in ("smolvlm", "idefics3") else (1, 3, 16, 16)
    given = {"pixel_values": torch.randn(shape, generator=generator)}
    if family == "gemma3":
        given["token_type_ids"] = kinds
    if family == "paligemma":
        given["token_type_ids"] = (torch.arange(ids.shape[1]) >= image.stop + 4).long()[None]
    return Prompt(ids, given, image)
