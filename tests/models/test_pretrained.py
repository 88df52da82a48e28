"""What `from_gguf` makes sure of after transformers has loaded a file."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from transom.errors import ModelNotFoundError
from transom.models import pretrained

SIZES = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def loaded(monkeypatch: pytest.MonkeyPatch, emptied: str, tied: bool) -> Any:
    """`from_gguf` where transformers leaves one module's weight without values."""
    config = LlamaConfig(**SIZES, num_attention_heads=2, tie_word_embeddings=tied)
    model = LlamaForCausalLM(config)
    module = model.get_submodule(emptied)
    module.weight = torch.nn.Parameter(module.weight.to("meta"))
    monkeypatch.setattr(pretrained, "from_pretrained", lambda *_: (model, None))
    return pretrained.from_gguf(Path("model.gguf"), "float32", {})


def test_a_shared_output_layer_left_empty_is_shared_again(monkeypatch):
    model, _ = loaded(monkeypatch, "lm_head", tied=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.lm_head.weight.is_meta


def test_other_weights_left_empty_are_an_error(monkeypatch):
    with pytest.raises(ModelNotFoundError, match=r"without weights for model\.norm\.weight"):
        loaded(monkeypatch, "model.norm", tied=False)


def test_threads_load_one_after_the_other(tiny, monkeypatch):
    """In two threads at once, transformers can leave `tie_weights` replaced."""
    loading, most = 0, 0
    read = AutoModelForCausalLM.from_pretrained

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal loading, most
        loading += 1
        most = max(most, loading)
        time.sleep(0.05)
        try:
            return read(*args, **kwargs)
        finally:
            loading -= 1

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    tie = PreTrainedModel.tie_weights
    threads = [
        threading.Thread(target=pretrained.from_pretrained, args=(str(tiny), "float32", {}))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert PreTrainedModel.tie_weights is tie
