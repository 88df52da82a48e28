"""What the rules for small configs do not say: settings of single kinds, and kinds left out."""

from __future__ import annotations

from typing import Any

__all__ = ["NOT_MADE", "SETTINGS"]

ATTENTION_BETWEEN = "no layer attends by default"
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
NO_HEAD_DIM = "the default has no size of a head"
NO_THETA = "the default names no base of its rotary positions"
SLIDING_HEADS = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_qk_rope_head_dim": 8,
    "swa_v_head_dim": 16,
}
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 4,
}
LATER_SHARED = "so many layers that some take over the keys of others, of both sorts"
SHARED = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_kv_shared_layers": 2,
}

# Settings by kind, each with the reason for it.
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": (ATTENTION_BETWEEN, {"attn_layer_indices": [1, 3]}),
    "big_bird": ("its sparse attention is for longer texts", {"attention_type": "original_full"}),
    "bigbird_pegasus": ("as big_bird", {"attention_type": "original_full"}),
    "blt": ("the table of byte groups is most of it", {"encoder_hash_byte_group_vocab": 50}),
    "cohere_compass_text": (NO_THETA, {"rope_parameters": {"full_attention": ROPE}}),
    "dbrx": (
        "the default of its attention lacks what the model reads",
        {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8}},
    ),
    "deepseek_v2": ("the default chooses no number of experts", {"num_experts_per_tok": 2}),
    "dory": ("its parts have 8 layers", {"n_input_layers": 1, "n_output_layers": 1}),
    "dots1": (
        "the default has no number of experts",
        {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    ),
    "dots3_note": (
        "its parts have to fit each other",
        {
            "text_config": SLIDING_HEADS,
            "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
            "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
        },
    ),
    "dots3_note_text": ("layers that slide have sizes of their own", SLIDING_HEADS),
    "falcon_h1": ("width of its states", {"mamba_d_ssm": 64}),
    "gemma3n_text": (
        LATER_SHARED,
        {**SHARED, "activation_sparsity_pattern": [0.5] + [0.0] * 5, "intermediate_size": [48] * 6},
    ),
    "gemma4_text": (LATER_SHARED, {**SHARED, "global_head_dim": 16}),
    "gpt_neo": (
        "kinds of layers are counted",
        {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "window_size": 8},
    ),
    "granitemoehybrid": (
        ATTENTION_BETWEEN,
        {
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "position_embedding_type": "rope",
        },
    ),
    "hrm_text": ("its cycles make rounding errors large", {"H_cycles": 1, "L_cycles": 1}),
    "hunyuan_v1_dense": (NO_HEAD_DIM, {"head_dim": 8}),
    "hunyuan_v1_moe": (NO_HEAD_DIM, {"head_dim": 8}),
    "jamba": ("one layer of eight attends", {"attn_layer_period": 2, "attn_layer_offset": 1}),
    "lfm2_moe": (
        "the default names no kinds of layers",
        {"layer_types": ["conv", "full_attention"] * 2},
    ),
    "mamba2": ("4 heads of 16 are twice the width", {"head_dim": 16}),
    "marian": ("the decoder's vocabulary has no default", {"decoder_vocab_size": 97}),
    "ministral": (NO_HEAD_DIM, {"head_dim": 8}),
    "nemotron": ("the default has no number of heads for keys", {"num_key_value_heads": 2}),
    "nemotron_h": ("louder weights make rounding errors large", {"initializer_range": 0.1}),
    "qwen4_exp": ("as qwen4_exp_text", {"text_config": INDEXER}),
    "qwen4_exp_text": ("the default has no indexer", INDEXER),
    "xmod": ("it asks for a language", {"default_language": "en_XX"}),
    "zamba": (
        "two layers share their attention",
        {
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
        },
    ),
    "zamba2": (
        "two layers share their attention",
        {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    ),
}

# Kinds of which no model is made, with the reason.
NOT_MADE: dict[str, str] = {
    "gemma3n": "its vision part needs the timm package; gemma3n_text is its text part",
    "gemma4_assistant": "it drafts from the keys of another model, and reads no text by itself",
    "gemma4_unified_assistant": "as gemma4_assistant",
    "musicgen": "it reads audio codes, and transformers cannot make it from its config",
    "musicgen_melody": "as musicgen",
    "reformer": "it attends within buckets of hashed keys, and has a cache of its own for them",
}
