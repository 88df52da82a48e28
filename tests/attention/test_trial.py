"""What a trial finds out about a model, by running it without weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.helpers.models import COMMON, CONFIGS, GROUPED
from transom.attention.rotary import Rotary, rotary_of
from transom.attention.trial import NEAR, trial
from transom.errors import UnsupportedModelError

FOUR = {**GROUPED, "num_hidden_layers": 4}
EACH_SECOND = ["sliding_attention", "full_attention"] * 2
MIXED = {**FOUR, "head_dim": 8, "sliding_window": 8, "layer_types": EACH_SECOND}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# Which layers rotate their keys (1) and which do not (0), read off the code of each model.
ROTATING = {
    "llama": (LlamaConfig(**FOUR), "1111"),
    "cohere2": (CONFIG_MAPPING["cohere2"](**MIXED), "1010"),
    "exaone4": (CONFIG_MAPPING["exaone4"](**MIXED, sliding_window_pattern=2), "1010"),
    "exaone4, without a window": (
        CONFIG_MAPPING["exaone4"](
            **{**MIXED, "sliding_window": None, "layer_types": ["full_attention"] * 4},
            sliding_window_pattern=None,
        ),
        "1111",
    ),
    "afmoe": (CONFIG_MAPPING["afmoe"](**MIXED, **EXPERTS, num_dense_layers=1), "1010"),
    "smollm3": (CONFIG_MAPPING["smollm3"](**FOUR, no_rope_layers=[0, 1, 0, 0]), "0100"),
    "gemma3": (CONFIG_MAPPING["gemma3_text"](**MIXED), "1111"),
    "olmo3": (CONFIG_MAPPING["olmo3"](**MIXED), "1111"),
    "nanochat": (CONFIG_MAPPING["nanochat"](**FOUR, head_dim=8), "1111"),
}


@pytest.mark.parametrize("name", ROTATING)
def test_which_layers_rotate_their_keys(name: str) -> None:
    config, expected = ROTATING[name]
    found = {index: rotates(config, index) for index in range(4)}
    assert "".join(str(int(found[index])) for index in range(4)) == expected


def rotates(config: Any, index: int) -> bool:
    return rotary_of(trial(config), [index])[index] is not None


@pytest.mark.parametrize("name", ROTATING)
def test_the_real_model_rotates_as_found(name: str) -> None:
    """Keys of one token at two positions, from a model with weights and its own attention."""
    config, _ = ROTATING[name]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    keys = {position: real_keys(model, position) for position in (4, 61)}
    for index in range(4):
        rotary = rotary_of(trial(config), [index])[index]
        expected = keys[4][index]
        if rotary is not None:
            expected = rotary.rotate(expected, *rotary.angles(torch.tensor(57)))
        torch.testing.assert_close(keys[61][index], expected, atol=1e-4, rtol=1e-3)


def real_keys(model: Any, position: int) -> dict[int, torch.Tensor]:
    found = {}
    sdpa = AttentionInterface()["sdpa"]

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any = None, **kwargs: Any) -> Any:
        found[module.layer_idx] = k[0, :, 0]
        return sdpa(module, q, k, v, kwargs.pop("attention_mask", mask), **kwargs)

    AttentionInterface.register("keys-of-a-test", attention)
    model.config._attn_implementation = "keys-of-a-test"
    with torch.no_grad():
        model(input_ids=torch.tensor([[5]]), position_ids=torch.tensor([[position]]))
    AttentionInterface._global_mapping.pop("keys-of-a-test")
    return found


@pytest.mark.parametrize("family", CONFIGS)
def test_a_trial_sees_every_layer_with_attention(family: str) -> None:
    config = CONFIGS[family]
    made = trial(config)
    kinds = getattr(config, "layer_types", None) or [""] * config.num_hidden_layers
    assert made.failure is None
    assert set(made.layers) == {i for i, kind in enumerate(kinds) if kind != "conv"}
    for index, layer in made.layers.items():
        assert layer.updates == 1
        assert layer.keys.shape[0] == len(NEAR)
        assert [call.layer for call in layer.calls] == [index]


def test_a_trial_changes_neither_config_nor_random_numbers() -> None:
    config = LlamaConfig(**{**COMMON, "num_hidden_layers": 5}, attn_implementation="sdpa")
    before, random = config.to_dict(), torch.random.get_rng_state()
    trial(config)
    assert config.to_dict() == before
    assert config._attn_implementation == "sdpa"
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_neither_default_dtype_nor_autocast_nor_inference_mode_matter(dtype: torch.dtype) -> None:
    theta = {torch.float16: 5000.0, torch.bfloat16: 6000.0, torch.float64: 7000.0}[dtype]
    rope = {"rope_type": "default", "rope_theta": theta}
    config = LlamaConfig(**COMMON, rope_parameters=rope)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            rotary = Rotary.from_config(config)
    finally:
        torch.set_default_dtype(before)
    expected = theta ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    assert not rotary.inv_freq.is_inference()
    torch.testing.assert_close(rotary.inv_freq, expected, atol=1e-6, rtol=1e-5)


def test_a_model_of_any_size_takes_no_memory() -> None:
    """The weights would be a hundred billion numbers; a trial has only their shapes."""
    config = LlamaConfig(
        hidden_size=2**14, intermediate_size=2**17, num_hidden_layers=3, num_attention_heads=128,
        num_key_value_heads=8, vocab_size=2**17,
    )  # fmt: skip
    assert trial(config).failure is None
    assert Rotary.from_config(config).dim == 128


def test_a_norm_with_weights_after_the_rotation_is_noticed() -> None:
    """A new norm has ones everywhere, and would look like no norm."""
    config = CONFIG_MAPPING["hunyuan_v1_dense"](**FOUR, head_dim=8)
    with pytest.raises(UnsupportedModelError, match="once they are rotated"):
        Rotary.from_config(config)


def test_weights_of_queries_after_the_rotation_are_noticed() -> None:
    if "dory" not in CONFIG_MAPPING:
        pytest.skip("this release of transformers has no Dory; install 5.24 or later")
    with pytest.raises(UnsupportedModelError, match="does not rotate its queries as its keys"):
        Rotary.from_config(CONFIG_MAPPING["dory"](**FOUR, head_dim=8))


def test_encoders_and_queries_that_depend_on_the_cache_length_are_noticed() -> None:
    bert = trial(BertConfig(num_hidden_layers=1))
    assert all(call.ahead for layer in bert.layers.values() for call in layer.calls)
    llama4 = trial(CONFIG_MAPPING["llama4_text"](**FOUR, head_dim=8))
    assert all(layer.steady for layer in llama4.layers.values())
    assert [layer.level for layer in llama4.layers.values()] == [True, True, True, False]


class Clipped(LlamaRotaryEmbedding):
    """Rotary positions that stop growing, as in ReRoPE."""

    def forward(self, x: Any, position_ids: Any) -> Any:
        return super().forward(x, position_ids.clamp(max=40))


class Tabulated(LlamaRotaryEmbedding):
    """Rotary positions from a table with 300 rows."""

    def forward(self, x: Any, position_ids: Any) -> Any:
        angles = torch.arange(300.0)[:, None] * self.inv_freq
        angles = torch.cat((angles, angles), -1)[position_ids]
        return angles.cos(), angles.sin()


class Frequencyless(LlamaRotaryEmbedding):
    """Rotary positions whose frequencies are computed anew in each pass."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("inv_freq", None)
        self.register_buffer("original_inv_freq", None)

    def forward(self, x: Any, position_ids: Any) -> Any:
        frequencies = 100.0 ** -(torch.arange(0, 8, 2) / 8)
        angles = position_ids[..., None] * torch.cat((frequencies, frequencies))
        return angles.cos(), angles.sin()


REASONS = {
    Clipped: "at position 250 otherwise",
    Tabulated: "a table",
    Frequencyless: "keeps nowhere",
}


@pytest.mark.parametrize("kind", REASONS)
def test_keys_that_cannot_be_moved_are_refused_with_the_reason(kind: Any) -> None:
    class Config(LlamaConfig):
        model_type = f"transom-test-{kind.__name__.lower()}"

    class Model(LlamaForCausalLM):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model.rotary_emb = kind(config)

    AutoConfig.register(Config.model_type, Config)
    AutoModelForCausalLM.register(Config, Model)
    with pytest.raises(UnsupportedModelError, match=REASONS[kind]):
        Rotary.from_config(Config(**COMMON))
