"""Attention weights: those that eager attention gives with a cache of its own, or none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, StableLmConfig

from tests.helpers.models import GROUPED, difference, tiny, tokens
from transom import BoundedCache
from transom.attention.huggingface import use_pattern
from transom.attention.patterns import causal, sliding
from transom.errors import CacheError
from transom.policies import parse

MASK = [[1] * 12, [0] * 4 + [1] * 8]


def eager(family: str) -> Any:
    model = tiny(family)
    model.set_attn_implementation("eager")
    return model


def attentions(model: Any, cache: Any, sizes: list[int], mask: Any = None) -> list[tuple[Any, ...]]:
    ids, start, found = tokens(2, sum(sizes)), 0, []
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    for size in sizes:
        stop = start + size
        with torch.no_grad():
            output = model(
                ids[:, start:stop],
                past_key_values=cache,
                attention_mask=None if mask is None else mask[:, :stop],
                position_ids=None if positions is None else positions[:, start:stop],
                output_attentions=True,
            )
        found.append(output.attentions)
        start = stop
    return found


@pytest.mark.parametrize("family", ["llama", "gemma3", "smollm3", "lfm2"])
@pytest.mark.parametrize(
    "policy", ["full", "window:40", "sinks:4,window=36", "window:70,kv=int8", "chunked:20,chunk=4"]
)
@pytest.mark.parametrize("padded", [False, True])
def test_while_nothing_has_left_they_are_those_of_a_dynamic_cache(
    family: str, policy: str, padded: bool
) -> None:
    model = eager(family)
    mask = torch.tensor(MASK) if padded else None
    sizes = [7, 1, 4] if padded else [9, 1, 1, 5]
    expected = attentions(model, DynamicCache(config=model.config), sizes, mask)
    cache = BoundedCache(parse(policy), config=model.config)
    found = attentions(model, cache, sizes, mask)
    for theirs, ours in zip(expected, found, strict=True):
        assert [x.shape for x in ours] == [x.shape for x in theirs]
        for a, b in zip(theirs, ours, strict=True):
            if padded:  # a token of padding sees what it likes
                real = mask[:, : a.shape[3]][:, -a.shape[2] :, None].bool()[:, None]
                a, b = a * real, b * real
            assert difference(a, b) < 1e-4


@pytest.mark.parametrize("policy", ["window:8", "sinks:3,window=6"])
def test_tokens_that_have_left_get_none(policy: str) -> None:
    """One column for each token fed, under eviction as well; against a mask."""
    model, sizes = eager("llama"), [11, 1, 9, 1]
    with use_pattern(model, parse(policy)):
        whole = attentions(model, DynamicCache(config=model.config), [22])[0]
    cache = BoundedCache(parse(policy), config=model.config, positions="absolute")
    start = 0
    for size, step in zip(sizes, attentions(model, cache, sizes), strict=True):
        stop = start + size
        for theirs, ours in zip(whole, step, strict=True):
            assert ours.shape == (2, 4, size, stop)
            assert difference(theirs[:, :, start:stop, :stop], ours) < 1e-4
        start = stop


def test_pinned_keys_are_weighed_at_their_compact_distance() -> None:
    """Weights times values is what the layers give."""
    model = eager("llama")
    cache = BoundedCache(parse("sinks:3,window=6"), config=model.config)
    for step in attentions(model, cache, [11, 1, 9, 1]):
        for weights in step:
            rows = weights.sum(-1)
            torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-5, rtol=0)
    values = []
    layer = model.model.layers[0].self_attn
    layer.v_proj.register_forward_hook(lambda _, args, out: values.append(out))
    outputs = []
    layer.o_proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    cache = BoundedCache(parse("sinks:3,window=6"), config=model.config)
    steps = attentions(model, cache, [11, 1, 9, 1])
    seen = torch.cat(values, 1).unflatten(2, (2, -1)).transpose(1, 2).repeat_interleave(2, 1)
    for step, output in zip(steps, outputs, strict=True):
        mixed = step[0] @ seen[:, :, : step[0].shape[3]]
        assert difference(mixed.transpose(1, 2).flatten(2), output) < 1e-4


def test_a_pattern_has_weights_too() -> None:
    model = eager("llama")
    with use_pattern(model, causal() & sliding(5)):
        for weights in attentions(model, None, [12])[0]:
            assert int((weights[0, 0, -1] > 0).sum()) == 5
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 12))


@pytest.mark.parametrize("policy", ["snapkv:40", "hierarchical:1024,global=100000,recall=blocks"])
@pytest.mark.parametrize("size", [1, 9])
def test_where_each_head_keeps_others_they_are_refused(policy: str, size: int) -> None:
    model = eager("llama")
    cache = BoundedCache(parse(policy), config=model.config)
    with pytest.raises(CacheError, match="output_attentions"):
        attentions(model, cache, [size])
    cache.reset()
    with torch.no_grad():
        assert model(tokens(2, 9), past_key_values=cache).attentions is None


def test_assisted_decoding_under_eager_attention() -> None:
    model, ids = eager("llama"), tokens(1, 12).repeat(1, 2)
    settings = {
        "max_new_tokens": 10,
        "do_sample": False,
        "prompt_lookup_num_tokens": 3,
        "output_attentions": True,
        "return_dict_in_generate": True,
    }
    theirs = model.generate(ids, past_key_values=DynamicCache(config=model.config), **settings)
    cache = BoundedCache(parse("window:64"), config=model.config)
    ours = model.generate(ids, past_key_values=cache, **settings)
    assert torch.equal(theirs.sequences, ours.sequences)
    assert [len(x) for x in ours.attentions] == [len(x) for x in theirs.attentions]
    for a, b in zip(theirs.attentions, ours.attentions, strict=True):
        assert all(difference(x, y) < 1e-4 for x, y in zip(a, b, strict=True))


def test_models_that_do_not_hand_on_what_was_asked_give_them_too() -> None:
    """Their attention returns weights always, and transformers gathers them or not."""
    config = StableLmConfig(**GROUPED)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    expected = attentions(model, DynamicCache(config=config), [9, 1, 5])
    found = attentions(model, BoundedCache("window:40", config=model.config), [9, 1, 5])
    for theirs, ours in zip(expected, found, strict=True):
        assert [x.shape for x in ours] == [x.shape for x in theirs]
        assert max(difference(x, y) for x, y in zip(ours, theirs, strict=True)) < 1e-5
    with pytest.raises(CacheError, match="attention weights"):
        attentions(model, BoundedCache("snapkv:40", config=model.config), [9])
