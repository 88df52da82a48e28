"""Which models a policy can be applied to; the others are refused before they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    DynamicCache,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
)
from transformers.models.llama.modeling_llama import LlamaAttention

from tests.helpers.models import COMMON, GROUPED, chunked_logits, difference, tokens
from transom import BoundedCache
from transom.errors import CacheError, UnsupportedModelError
from transom.kv import cache as cache_module
from transom.policies import parse

FOUR = {**GROUPED, "num_hidden_layers": 4}
EACH_SECOND = ["sliding_attention", "full_attention"] * 2
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
PER_LAYER = {"vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8}
MIXED = {**FOUR, "head_dim": 8, "sliding_window": 8, "layer_types": EACH_SECOND}
POLICIES = ["full", "window:64", "sinks:4,window=60", "snapkv:64"]


def made(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**settings)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


RIGHT = {
    "qwen2_moe": {**FOUR, **EXPERTS, "shared_expert_intermediate_size": 16},
    "beam": FOUR,
    "gemma3n_text": {
        **MIXED,
        **PER_LAYER,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 8,
        "altup_num_inputs": 2,
    },
    "gemma4_text": {**MIXED, **PER_LAYER, "num_kv_shared_layers": 0},
    "nanochat": {**FOUR, "head_dim": 8},
}


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("policy", POLICIES)
def test_while_nothing_leaves_logits_are_those_of_a_dynamic_cache(kind: str, policy: str) -> None:
    model, ids = made(kind, **RIGHT[kind]), tokens(1, 30)
    expected = chunked_logits(model, ids, DynamicCache(config=model.config), [30])
    cache = BoundedCache(parse(policy), config=model.config)
    assert difference(chunked_logits(model, ids, cache, [20, 1, 9]), expected) < 1e-3


TWO = {**COMMON, "num_hidden_layers": 2}
OLD = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4}
JETMOE = {**TWO, "num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4}
SHARED = {**MIXED, **PER_LAYER, "num_kv_shared_layers": 2}
MPT = {"vocab_size": 97, "d_model": 32, "n_layers": 2, "n_heads": 4}
BLOOM = {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4}
ITSELF = "computes attention by itself"
REFUSED = [
    ("falcon", TWO, POLICIES, ITSELF),
    ("gpt_neox_japanese", TWO, POLICIES, ITSELF),
    ("bloom", BLOOM, POLICIES, ITSELF),
    ("mpt", MPT, POLICIES, ITSELF),
    ("openai-gpt", OLD, POLICIES, "does not give its keys"),
    ("gemma4_text", SHARED, POLICIES[3:], "attends 2 times"),
    ("gpt2", OLD, POLICIES[1:], "no rotary positions"),
    ("diffllama", FOUR, POLICIES[3:], "attends 2 times"),
    ("jetmoe", JETMOE, POLICIES[3:], "other than those it gives"),
]


@pytest.mark.parametrize(("kind", "settings", "policies", "reason"), REFUSED)
def test_what_cannot_be_right_is_refused_when_the_cache_is_made(
    kind: str, settings: dict[str, Any], policies: list[str], reason: str
) -> None:
    model = made(kind, **settings)
    for policy in POLICIES:
        if policy in policies:
            with pytest.raises(UnsupportedModelError, match=reason):
                BoundedCache(parse(policy), config=model.config)
        else:
            ids = tokens(1, 30)
            expected = chunked_logits(model, ids, DynamicCache(config=model.config), [30])
            cache = BoundedCache(parse(policy), config=model.config)
            assert difference(chunked_logits(model, ids, cache, [20, 1, 9]), expected) < 1e-3


def test_encoders_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="see later ones"):
        BoundedCache(parse("full"), config=BertConfig(**COMMON))


def test_a_model_that_cannot_be_run_is_named_with_its_own_error() -> None:
    config = CONFIG_MAPPING["llama"](**{**COMMON, "hidden_act": "no such function"})
    with pytest.raises(UnsupportedModelError, match="no such function"):
        BoundedCache(parse("full"), config=config)


@pytest.fixture(scope="module")
def seeing() -> Any:
    """A model whose image tokens see each other."""
    torch.manual_seed(0)
    text = Gemma3TextConfig(
        **{**GROUPED, "vocab_size": 97}, head_dim=8, sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=4,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4,
        image_token_index=90, boi_token_index=91, eoi_token_index=92,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("masked", [False, True])
def test_image_tokens_that_see_each_other_are_exact_or_refused(
    seeing: Any, policy: str, masked: bool
) -> None:
    ids = tokens(1, 30) % 80
    types = torch.zeros_like(ids)
    cache = BoundedCache(parse(policy), config=seeing.config)
    mask = torch.ones_like(ids) if masked else None
    given = {"token_type_ids": types, "attention_mask": mask}
    with torch.no_grad():
        plain = seeing(input_ids=ids, past_key_values=DynamicCache(config=seeing.config), **given)
        found = seeing(input_ids=ids, past_key_values=cache, **given)
        assert difference(found.logits, plain.logits) < 1e-3
        cache.reset()
        ids[0, 5:9], types[0, 5:9] = 90, 1
        pixels = torch.randn(1, 3, 16, 16)
        given["pixel_values"] = pixels
        if parse(policy).decides_by != "position":
            with pytest.raises(CacheError, match="kept one by one"):
                seeing(input_ids=ids, past_key_values=cache, **given)
            assert cache.seen == 0
            return
        plain = seeing(input_ids=ids, past_key_values=DynamicCache(config=seeing.config), **given)
        found = seeing(input_ids=ids, past_key_values=cache, **given)
        assert difference(found.logits, plain.logits) < 1e-3


def test_blocks_in_pieces_are_noticed_too() -> None:
    """Tokens of one block need not be neighbours."""
    from transom.attention.causal_text import deviates

    blocks = torch.full((1, 9), -1)
    blocks[0, [2, 5]] = 0

    def mask(row: Any, head: Any, query: Any, key: Any) -> Any:
        same = (blocks[row, query] == blocks[row, key]) & (blocks[row, query] >= 0)
        return (key <= query) | same

    given = {"batch_size": 1, "q_length": 9, "device": torch.device("cpu")}
    assert "later" in str(deviates(mask_function=mask, **given))
    blocks[:] = -1
    assert deviates(mask_function=mask, **given) is None


def test_a_model_without_any_positions_goes_on_when_they_start_over() -> None:
    """Nothing is rotated then, and positions are only counted."""
    model = made("smollm3", **FOUR, no_rope_layers=[0] * 4)
    ids = tokens(1, 40)
    plain = BoundedCache(parse("sinks:2,window=10"), config=model.config)
    expected = chunked_logits(model, ids, plain, [30, 1, 9])
    cache = BoundedCache(parse("sinks:2,window=10"), config=model.config)
    found = [chunked_logits(model, ids, cache, [30])]
    cache.rebase(15)
    with torch.no_grad():
        for start, stop in ((30, 31), (31, 40)):
            places = torch.arange(start - 15, stop - 15)[None]
            output = model(ids[:, start:stop], past_key_values=cache, position_ids=places)
            found.append(output.logits)
    assert difference(torch.cat(found, 1), expected) < 1e-4


def test_the_trial_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    known = cache_module.trial
    monkeypatch.setattr(cache_module, "trial", lambda config: asked.append(config) or known(config))
    config = made("llama", **FOUR).config
    for policy in POLICIES:
        BoundedCache(parse(policy), config=config)
    assert len(asked) == len(POLICIES)


def test_eager_attention_that_expects_a_mask_gets_one() -> None:
    settings = {**COMMON, "num_hidden_layers": 3, "local_attention": 8}
    model, ids = made("modernbert-decoder", **settings), tokens(1, 30)
    expected = chunked_logits(model, ids, DynamicCache(config=model.config), [30])
    cache = BoundedCache(parse("window:64"), config=model.config)
    assert difference(chunked_logits(model, ids, cache, [20, 1, 9]), expected) < 1e-4


class InheritedAttention(LlamaAttention):
    """As in Llama, in a module that has no eager attention of its own."""


def capped(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **kwargs: Any) -> Any:
    """Attention with a limit on scores, passed under a name that transom does not know."""
    groups = module.num_key_value_groups
    scores = q @ k.repeat_interleave(groups, 1).transpose(2, 3) * scaling
    scores = torch.tanh(scores / 5) * 5 + (0 if mask is None else mask)
    weights = scores.softmax(-1)
    return (weights @ v.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), weights


class MineConfig(LlamaConfig):
    model_type = "transom-test-mine"


class Mine(LlamaForCausalLM):
    config_class = MineConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = InheritedAttention(config, index)
        self.post_init()


@pytest.fixture(scope="module")
def mine() -> Any:
    """A model of someone's own, made known by hand."""
    AutoConfig.register(MineConfig.model_type, MineConfig, exist_ok=True)
    AutoModelForCausalLM.register(MineConfig, Mine, exist_ok=True)
    return made(MineConfig.model_type, **FOUR)


def test_eager_attention_is_that_of_the_parent_class(mine: Any) -> None:
    ids = tokens(1, 30)
    expected = chunked_logits(mine, ids, DynamicCache(config=mine.config), [30])
    for policy in POLICIES:
        cache = BoundedCache(parse(policy), config=mine.config)
        assert difference(chunked_logits(mine, ids, cache, [20, 1, 9]), expected) < 1e-4


def test_eager_attention_that_is_something_else_is_refused(
    mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "eager_attention_forward", capped)
    config = type(mine.config)(**FOUR, rope_theta=123.0, attn_implementation="eager")
    for policy in POLICIES:
        with pytest.raises(UnsupportedModelError, match="changes scores or weights"):
            BoundedCache(parse(policy), config=config)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("deepseek_v4", "no layer with full attention"), ("xlm", "computes attention by itself")],
)
def test_a_config_alone_is_enough_to_be_refused_by_name(kind: str, reason: str) -> None:
    """Also one whose kinds of layers are known only once its model's code is imported."""
    with pytest.raises(UnsupportedModelError, match=reason):
        BoundedCache(parse("full"), config=CONFIG_MAPPING[kind]())
