"""Models that cap scores or have learned sinks, in use: turns, beams, states, patterns, weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from tests.helpers.letters import Letters
from tests.helpers.models import (
    chunked_logits,
    dense_logits,
    dense_reference,
    difference,
    distinct,
    ids_of,
    left_padded,
    tokens,
)
from tests.helpers.ruled_models import BOTH, RULED, ruled
from transom import BoundedCache, Context
from transom.attention.huggingface import use_pattern
from transom.attention.patterns import causal, sinks, sliding
from transom.errors import UnsupportedModelError
from transom.policies import parse

LENGTH = 60
CLOSE = 1e-3  # of logits, in float32
POSITIONAL = ["full", "window:20", "sinks:3,window=17", "chunked:20,chunk=6"]
GOES_ON = [
    *POSITIONAL,
    "hierarchical:8,global=12",
    "snapkv:20,sinks=2,recent=5,every=3",
    "hierarchical:8,global=1000,recall=blocks,block=4,blocks=3,chunk=2,representatives=2",
    "sinks:3,window=97,kv=int8",
]


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", GOES_ON)
def test_several_turns(kind: str, policy: str) -> None:
    """What is generated is the likeliest of one pass over all turns."""
    model, ids = ruled(kind), distinct(1, 30)
    settings = {"do_sample": False, "eos_token_id": None}
    cache = BoundedCache(policy, config=model.config)
    made = ids
    for turn in range(3):
        made = torch.cat((made, distinct(1, 5, seed=turn)), 1)
        mask = torch.ones_like(made)
        made = model.generate(
            made, attention_mask=mask, past_key_values=cache, max_new_tokens=6, **settings
        )
    one = BoundedCache(policy, config=model.config)
    logits = chunked_logits(model, made[:, :-1], one, [made.shape[1] - 1])[0]
    assert logits[-6:].argmax(-1).tolist() == made[0, -6:].tolist()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", ["full", "sinks:4,window=60"])
def test_beam_search_is_that_of_a_dynamic_cache(kind: str, policy: str) -> None:
    model, ids = ruled(kind), distinct(2, 30)
    settings = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    given = {"attention_mask": left_padded([30, 21], 30), **settings}
    cache = BoundedCache(policy, config=model.config)
    ours = model.generate(ids, past_key_values=cache, **given)
    assert torch.equal(ours, model.generate(ids, **given))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", GOES_ON)
def test_beams_reorder(kind: str, policy: str) -> None:
    model, ids = ruled(kind), distinct(2, 40)
    order = torch.tensor([1, 1, 0])
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, ids, cache, [40])
    cache.reorder_cache(order)
    followed = torch.cat((ids[order], distinct(3, 20, seed=5)), dim=1)
    got = chunked_logits(model, followed, cache, [1, 19])
    fresh = BoundedCache(policy, config=model.config)
    expected = chunked_logits(model, followed, fresh, [40, 1, 19])[:, 40:]
    assert difference(got, expected) < CLOSE


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", GOES_ON)
def test_contexts_and_their_saved_states(kind: str, policy: str, tmp_path: Path) -> None:
    model = ruled(kind)
    context = Context(model, policy=policy, chunk=32)
    context.append(ids_of(70))
    context.save(tmp_path / "state")
    loaded = Context.load(tmp_path / "state", model)
    more = ids_of(40, seed=1)
    np.testing.assert_array_equal(loaded.score(more), context.score(more))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", POSITIONAL)
def test_a_context_generates_what_is_likeliest_under_the_mask(kind: str, policy: str) -> None:
    model, ids = ruled(kind), tokens(1, 40)
    context = Context(model, Letters(), policy, chunk=16)
    context.append(ids[0])
    text = context.generate(max_new_tokens=8)
    with dense_reference(model, parse(policy)):
        whole = model.generate(ids, use_cache=False, do_sample=False, max_new_tokens=8)
    assert text == Letters().decode(whole[0, 40:].tolist(), True)


@pytest.mark.parametrize("kind", BOTH)
def test_compiled_steps(kind: str) -> None:
    model, ids = ruled(kind, sliding=False), ids_of(60)
    policy = "sinks:3,window=17"
    expected = Context(model, policy=policy).score(ids)
    context = Context(model, policy=policy, compile=True)
    losses = [context.score(ids[:30]), *(context.score([token]) for token in ids[30:])]
    assert np.nanmax(np.abs(np.concatenate(losses) - expected)) < 1e-3


@pytest.mark.parametrize("kind", RULED)
def test_patterns(kind: str) -> None:
    """Against the stock model under the same masks."""
    model, ids = ruled(kind), tokens(2, LENGTH)
    some = sliding(10) | sinks(2)
    visible = (causal() & some).mask(LENGTH)
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    own = (causal() & some & sliding(8)).mask(LENGTH)
    narrow = torch.zeros(own.shape).masked_fill(~own, torch.finfo(torch.float32).min)
    masks = {"full_attention": mask, "sliding_attention": narrow}
    with torch.no_grad():
        expected = model(ids, attention_mask=masks, use_cache=False).logits
        with use_pattern(model, some):
            assert difference(model(ids).logits, expected) < CLOSE
            cache = DynamicCache(config=model.config)
            found = chunked_logits(model, ids, cache, [7, 30, 1, 1, 21])
            assert difference(found, expected) < CLOSE
            cache = BoundedCache(f"window:{LENGTH}", config=model.config)
            found = chunked_logits(model, ids, cache, [7, 30, 1, 1, 21])
            assert difference(found, expected) < CLOSE


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("how", ["pattern", "cache"])
def test_gradients_reach_the_sinks(kind: str, how: str) -> None:
    """Those of the stock model, where everything is seen."""
    ids, gradients = tokens(1, 40), []
    for ours in (True, False):
        model = ruled(kind).train()
        if not ours:
            model(ids, labels=ids).loss.backward()
        elif how == "pattern":
            with use_pattern(model, causal()):
                model(ids, labels=ids).loss.backward()
        else:
            cache = BoundedCache("sinks:4,window=60", config=model.config)
            model(ids, labels=ids, past_key_values=cache).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, mine in gradients[0].items():
        theirs = gradients[1][name]
        if theirs is None:
            assert mine is None
            continue
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)
    if kind == "gpt_oss":
        assert float(gradients[0]["model.layers.1.self_attn.sinks"].abs().max()) > 0


@pytest.mark.parametrize("kind", RULED)
@pytest.mark.parametrize("policy", ["full", "window:40", "sinks:4,window=36"])
def test_weights_that_are_asked_for(kind: str, policy: str) -> None:
    model, ids = ruled(kind), tokens(2, 20)
    with torch.no_grad():
        expected = model(ids, output_attentions=True).attentions
        cache = BoundedCache(policy, config=model.config)
        found = model(ids, past_key_values=cache, output_attentions=True).attentions
    for theirs, ours in zip(expected, found, strict=True):
        assert difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", ["window:20", "sinks:3,window=17"])
def test_steps_under_flex_attention_follow_the_rule(kind: str, policy: str) -> None:
    """They run the model's eager attention, because sdpa leaves sinks out."""
    model, ids = ruled(kind, sliding=False), tokens(1, LENGTH)
    expected = dense_logits(model, ids, parse(policy))
    model.set_attn_implementation("flex_attention")
    cache = BoundedCache(policy, config=model.config)
    assert difference(chunked_logits(model, ids, cache, [30, *[1] * 30]), expected) < CLOSE


def test_attention_that_leaves_the_rule_out_is_refused() -> None:
    """transformers refuses it too, unless it is set behind its back."""
    for kind in ("gemma2", "gpt_oss"):
        config = ruled(kind).config
        config._attn_implementation = "sdpa"
        with pytest.raises(UnsupportedModelError, match=r"set_attn_implementation\('eager'\)"):
            BoundedCache("window:20", config=config)
