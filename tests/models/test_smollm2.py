"""The real model: what it is, and that its conversion changes nothing."""

from __future__ import annotations

import pytest
import torch

from transom.models import conversion, load

TEXT = "<|im_start|>user\nA fox, 1 \u00e9t\u00e9\n\n  \U0001f600 naps.<|im_end|>\n"


@pytest.mark.model
def test_smollm2_is_what_it_says(smollm2):
    model, tokenizer, name = smollm2
    assert name == "smollm2"
    assert model.dtype == torch.float32
    assert not model.training
    assert not hasattr(model.config, "quantization_config")
    assert model.config.max_position_embeddings == 8192
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer("Hello world").input_ids == [19556, 905]  # no token added in front
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"


@pytest.mark.model
@pytest.mark.slow
def test_conversion_changes_nothing(cache, monkeypatch):
    read = conversion.from_gguf
    direct: list[tuple] = []
    monkeypatch.setattr(
        conversion, "from_gguf", lambda *args: direct.append(read(*args)) or direct[0]
    )
    model, tokenizer, _ = load("smollm2")
    [(expected, words)] = direct

    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    assert ids.tolist() == [words(TEXT).input_ids]
    assert tokenizer.backend_tokenizer.to_str() == words.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == words.special_tokens_map
    assert tokenizer.chat_template == words.chat_template
    assert isinstance(tokenizer, type(words))

    weights = expected.state_dict()
    assert weights.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert model.generation_config == expected.generation_config
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters"):
        assert getattr(model.config, key) == getattr(expected.config, key)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)
