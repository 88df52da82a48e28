"""Models of which every layer slides: `Full` is what the model's own cache keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

from tests.helpers.models import GROUPED, chunked_logits, difference, distinct, left_padded, tokens
from transom import Context
from transom.errors import UnsupportedModelError
from transom.kv import BoundedCache
from transom.policies import Window

SLIDING = 12
ALL = ["sliding_attention"] * 3
SETTINGS: dict[str, dict[str, Any]] = {
    "mistral": {"head_dim": 8, "sliding_window": SLIDING},
    "mixtral": {"sliding_window": SLIDING, "num_local_experts": 2},
    "starcoder2": {"sliding_window": SLIDING},
    "phi3": {"sliding_window": SLIDING},
    "cohere2": {"sliding_window": SLIDING, "layer_types": ALL},
    "qwen2": {"sliding_window": SLIDING, "use_sliding_window": True, "layer_types": ALL},
    "gemma3_text": {"head_dim": 8, "sliding_window": SLIDING, "layer_types": ALL},
}
SIZES = [20, 1, 1, 9, 1, 8]


def sliding(kind: str, **changes: Any) -> Any:
    torch.manual_seed(7)
    config = CONFIG_MAPPING[kind](**{**GROUPED, **SETTINGS[kind], **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    own = DynamicCache(config=config)
    assert own.is_sliding == [True] * 3, "not a model whose every layer slides"
    return model


def both(model: Any, ids: Tensor, sizes: list[int], **given: Any) -> tuple[Tensor, Tensor]:
    caches = BoundedCache("full", config=model.config), DynamicCache(config=model.config)
    mine, theirs = (chunked_logits(model, ids, cache, sizes, **given) for cache in caches)
    return mine, theirs


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("sizes", [[40], [1] * 40, SIZES], ids=["prompt", "steps", "chunks"])
def test_full_is_the_models_own_cache(kind: str, sizes: list[int]) -> None:
    mine, theirs = both(sliding(kind), distinct(2, 40), sizes)
    assert difference(mine, theirs) < 1e-4


def test_in_a_padded_batch() -> None:
    model, mask = sliding("mistral"), left_padded([40, 17], 40)
    mine, theirs = both(model, distinct(2, 40), SIZES, mask=mask)
    assert difference(mine[mask.bool()], theirs[mask.bool()]) < 1e-4


def test_it_keeps_and_says_what_the_model_sees() -> None:
    model = sliding("mistral")
    cache = BoundedCache("full", config=model.config)
    assert cache.policy == Window(SLIDING)
    assert BoundedCache("full:kv=int8", config=model.config).policy == Window(SLIDING, kv="int8")
    chunked_logits(model, tokens(1, 40), cache, [40])
    assert (cache.seen, cache.kept, cache.dropped) == (40, SLIDING, 28)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"prefill_chunk_size": 7}], ids=str)
def test_generate(settings: dict[str, Any]) -> None:
    model, ids = sliding("mistral"), tokens(2, 30)
    given = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, **settings}
    mine, theirs = (
        model.generate(ids, past_key_values=cache, **given)
        for cache in (
            BoundedCache("full", config=model.config), DynamicCache(config=model.config)
        )
    )  # fmt: skip
    assert torch.equal(mine, theirs)


def test_a_context_and_its_file(tmp_path: Path) -> None:
    model, ids = sliding("mistral"), tokens(40).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    expected = torch.nn.functional.cross_entropy(
        logits[:-1], torch.tensor(ids[1:]), reduction="none"
    )
    context = Context(model, policy="full", chunk=9)
    found = [context.score(ids[:25])]
    context.save(tmp_path / "state")
    again = Context.load(tmp_path / "state", model)
    found.append(again.score(ids[25:]))
    assert again.policy == Window(SLIDING)
    np.testing.assert_allclose(np.concatenate(found)[1:], expected, atol=1e-4)


@pytest.mark.parametrize("policy", ["window:5", "sinks:2,window=7", "snapkv:12"])
def test_a_smaller_policy_is_as_before(policy: str) -> None:
    model = sliding("mistral")
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, distinct(1, 40), cache, SIZES)
    assert str(cache.policy).startswith(policy)
    assert cache.kept <= SLIDING


def test_a_larger_one_is_refused_and_told_of_full() -> None:
    for policy in ("window:13", "sinks:4,window=9", "snapkv:13"):
        with pytest.raises(UnsupportedModelError, match="at most 12 tokens, or 'full'"):
            BoundedCache(policy, config=sliding("mistral").config)


def test_chunks_are_no_windows() -> None:
    """Their masks start over at each chunk, whatever the cache would hold."""
    settings = {**GROUPED, "head_dim": 8, "attention_chunk_size": 12, "no_rope_layers": [1] * 3}
    config = CONFIG_MAPPING["llama4_text"](
        **settings, layer_types=["chunked_attention"] * 3, num_local_experts=2
    )
    with pytest.raises(UnsupportedModelError):
        BoundedCache("full", config=config)
