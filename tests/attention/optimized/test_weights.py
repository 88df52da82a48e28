"""Modules made from the weights of others give what those give."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from transom.attention.optimized.module import OptimizedAttention
from transom.attention.patterns import causal, everything, sliding
from transom.errors import InputError, UnsupportedModelError

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 9,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 64,
}
LAYERS = {
    "llama": (LlamaAttention, LlamaConfig(**SIZES)),
    "bias": (LlamaAttention, LlamaConfig(**SIZES, attention_bias=True)),
    "head_dim": (LlamaAttention, LlamaConfig(**SIZES, head_dim=10)),
    "theta": (
        LlamaAttention,
        LlamaConfig(**SIZES, rope_parameters={**YARN, "rope_type": "default", "rope_theta": 300.0}),
    ),
    "llama3": (LlamaAttention, LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "yarn": (LlamaAttention, LlamaConfig(**SIZES, rope_parameters=YARN)),
    "mistral": (MistralAttention, MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": (Qwen2Attention, Qwen2Config(**SIZES)),
}


def layer_of(name: str) -> tuple[Any, Any]:
    kind, config = LAYERS[name]
    torch.manual_seed(5)
    return kind(config, layer_idx=1).eval(), config


def tokens(batch: int, seq: int) -> Tensor:
    return 2 * torch.randn(batch, seq, 24, generator=torch.Generator().manual_seed(seq))


def theirs(layer: Any, config: Any, x: Tensor, visible: Tensor) -> Tensor:
    """What transformers' layer gives, with its own rotary positions and an additive mask."""
    module = sys.modules[type(layer).__module__]
    name = next(name for name in vars(module) if name.endswith("RotaryEmbedding"))
    angles = getattr(module, name)(config)(x, torch.arange(x.shape[1])[None])
    added = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    return layer(x, position_embeddings=angles, attention_mask=added)[0]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 37)])
def test_llama(name: str, batch: int, seq: int) -> None:
    layer, config = layer_of(name)
    x = tokens(batch, seq)
    expected = theirs(layer, config, x, causal().mask(seq))
    for source in (layer, layer.state_dict()):
        module = OptimizedAttention.from_llama(source, config)
        torch.testing.assert_close(module(x), expected, atol=2e-5, rtol=1e-4)
    state = module.state_dict()
    assert state.keys() == layer.state_dict().keys()


def test_llamas_differ() -> None:
    """So that the equalities above say something."""
    x = tokens(2, 37)
    same_weights = ("llama", "theta", "llama3", "yarn")
    layers = [layer_of(name) for name in same_weights]
    outputs = [theirs(*layer, x, causal().mask(37)) for layer in layers]
    for index, one in enumerate(outputs):
        for other in outputs[index + 1 :]:
            assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("pattern", [sliding(9), everything()], ids=repr)
def test_llama_under_a_pattern(pattern: Any) -> None:
    layer, config = layer_of("llama")
    x = tokens(2, 37)
    module = OptimizedAttention.from_llama(layer, config, pattern=pattern)
    expected = theirs(layer, config, x, pattern.mask(37))
    torch.testing.assert_close(module(x), expected, atol=2e-5, rtol=1e-4)


def test_what_else_is_taken_over() -> None:
    config = LlamaConfig(**SIZES, attention_dropout=0.25)
    layer = LlamaAttention(config, layer_idx=1).bfloat16()
    module = OptimizedAttention.from_llama(layer.train(), config)
    assert (module.training, module.dropout, module.layer_idx) == (True, 0.25, 1)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not OptimizedAttention.from_llama(layer.eval(), config).training
    assert OptimizedAttention.from_llama(layer.state_dict(), config).training
    with torch.no_grad():
        layer.q_proj.weight.zero_()
    assert module.q_proj.weight.abs().max() > 0


def test_a_sliding_model_needs_a_pattern() -> None:
    config = MistralConfig(**SIZES, sliding_window=6)
    torch.manual_seed(5)
    layer = MistralAttention(config, layer_idx=0).eval()
    with pytest.raises(UnsupportedModelError, match=r"slide over 6 tokens.*pattern=sliding\(6\)"):
        OptimizedAttention.from_llama(layer, config)
    x = tokens(2, 20)
    module = OptimizedAttention.from_llama(layer, config, pattern=sliding(6))
    expected = theirs(layer, config, x, sliding(6).mask(20))
    torch.testing.assert_close(module(x), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [GemmaConfig(), GPT2Config()], ids=lambda c: c.model_type)
def test_other_models(config: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="from_llama takes llama, mistral, qwen2"):
        OptimizedAttention.from_llama({}, config)


def test_other_weights() -> None:
    layer, config = layer_of("llama")
    state = layer.state_dict()
    with pytest.raises(InputError, match=r"missing are \['k_proj.weight'\], unknown are none"):
        OptimizedAttention.from_llama(
            {name: w for name, w in state.items() if name != "k_proj.weight"}, config
        )
    with pytest.raises(InputError, match=r"missing are none, unknown are \['q_norm.weight'\]"):
        OptimizedAttention.from_llama({**state, "q_norm.weight": torch.ones(6)}, config)


# nn.MultiheadAttention


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (3, 33)])
def test_multihead_attention(
    bias: bool, batch_first: bool, is_causal: bool, batch: int, seq: int
) -> None:
    source = multihead(bias=bias, batch_first=batch_first)
    x = tokens(batch, seq)
    hidden = ~causal().mask(seq)[0, 0] if is_causal else None
    real = torch.arange(seq) >= torch.tensor([[0], [3], [9]])[:batch]
    if batch_first:
        expected = source(x, x, x, attn_mask=hidden)[0]
    else:
        y = x.transpose(0, 1)
        expected = source(y, y, y, attn_mask=hidden)[0].transpose(0, 1)
    pattern = causal() if is_causal else None
    module = OptimizedAttention.from_multihead_attention(source, pattern=pattern)
    torch.testing.assert_close(module(x), expected, atol=2e-5, rtol=1e-4)
    if batch_first:
        padded = source(x, x, x, attn_mask=hidden, key_padding_mask=~real)[0]
        torch.testing.assert_close(module(x, mask=real)[real], padded[real], atol=2e-5, rtol=1e-4)


def test_multihead_settings_are_taken_over() -> None:
    source = multihead(dropout=0.2).train().bfloat16()
    module = OptimizedAttention.from_multihead_attention(source)
    assert (module.training, module.dropout, module.rotary) == (True, 0.2, None)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not OptimizedAttention.from_multihead_attention(source.eval()).training
    with torch.no_grad():
        source.in_proj_weight.zero_()
    assert module.q_proj.weight.abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kdim": 8}, "kdim;"),
        ({"vdim": 8}, "vdim;"),
        ({"kdim": 8, "vdim": 8}, "kdim, vdim;"),
        ({"add_bias_kv": True}, "add_bias_kv;"),
        ({"add_zero_attn": True}, "add_zero_attn;"),
    ],
    ids=str,
)
def test_multihead_settings_that_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"the module has {named}"):
        OptimizedAttention.from_multihead_attention(multihead(**settings))


def test_something_else_than_multihead_attention() -> None:
    with pytest.raises(InputError, match=r"a Linear; expected a torch.nn.MultiheadAttention"):
        OptimizedAttention.from_multihead_attention(nn.Linear(3, 3))


def multihead(**settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(5)
    source = nn.MultiheadAttention(24, 4, **settings)
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases start at zero
    return source.eval()
