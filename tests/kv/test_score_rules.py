"""Models that cap scores or have learned sinks, under every kind of policy, against references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from tests.helpers.models import (
    chunked_logits,
    dense_logits,
    difference,
    distinct,
    ids_of,
    left_padded,
    tokens,
)
from tests.helpers.recall_reference import recall_reference
from tests.helpers.ruled_models import RULED, ruled
from tests.helpers.scored_reference import scored_reference
from tests.helpers.token_by_token import logits_by
from transom import BoundedCache, Context
from transom.attention.huggingface import use_pattern
from transom.attention.patterns import causal, sinks, sliding
from transom.attention.score_rule import ScoreRule
from transom.errors import UnsupportedModelError
from transom.kv.recall import RecallLayer
from transom.policies import parse

LENGTH = 60
CLOSE = 1e-3  # of logits, in float32
BOTH = ["gemma2", "gpt_oss"]  # one that caps, one that has sinks
FULL_LAYERS = [kind for kind in RULED if kind != "mimo_v2_flash"]  # those in which a rule is
CHUNKINGS = ([LENGTH], [1] * LENGTH, [1, 18, 1, 1, 2, 30, 7])
POSITIONAL = ["full", "window:20", "sinks:3,window=17", "chunked:20,chunk=6"]
HIERARCHICAL = "hierarchical:8,global=12"
BUDGET = "20,sinks=2,recent=5,every=3"
SCORED = [
    f"snapkv:{BUDGET}",
    f"heavy-hitters:{BUDGET},heads=adaptive",
    f"tova:{BUDGET},layers=pyramid",
    f"keydiff:{BUDGET},heads=adaptive",
]
RECALL = "hierarchical:8,global=1000,recall=blocks,block=4,blocks=3,chunk=2,representatives=2"
GOES_ON = [*POSITIONAL, HIERARCHICAL, SCORED[0], RECALL, "sinks:3,window=97,kv=int8"]


@pytest.mark.parametrize("policy", [*POSITIONAL, HIERARCHICAL])
@pytest.mark.parametrize("kind", RULED)
def test_any_chunking_is_the_dense_pass(kind: str, policy: str) -> None:
    model, ids = ruled(kind), tokens(1, LENGTH)
    expected = dense_logits(model, ids, parse(policy))
    for sizes in CHUNKINGS:
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize("kind", RULED)
def test_the_reference_without_a_bound_is_the_model_itself(kind: str) -> None:
    model, ids = ruled(kind), tokens(2, LENGTH)
    with torch.no_grad():
        own = model(ids).logits
    assert difference(dense_logits(model, ids, parse("full")), own) < 1e-4


@pytest.mark.parametrize("kind", FULL_LAYERS)
@pytest.mark.parametrize("policy", ["window:20", "sinks:3,window=17", SCORED[1], RECALL])
def test_the_rule_matters(kind: str, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the equalities here say something."""
    model, ids = ruled(kind), tokens(1, LENGTH)
    right = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [LENGTH])
    monkeypatch.setattr(ScoreRule, "given", classmethod(lambda cls, scale, given: cls(scale)))
    wrong = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [LENGTH])
    assert difference(right, wrong) > 0.05


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("policy", ["window:20", "sinks:3,window=17"])
def test_absolute_positions(kind: str, policy: str) -> None:
    model, ids = ruled(kind), tokens(1, LENGTH)
    expected = dense_logits(model, ids, parse(policy), compact=False)
    for sizes in CHUNKINGS:
        cache = BoundedCache(policy, config=model.config, positions="absolute")
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize("kind", RULED)
@pytest.mark.parametrize("policy", [*POSITIONAL, HIERARCHICAL])
def test_left_padded_rows_are_the_rows_alone(kind: str, policy: str) -> None:
    model, ids = ruled(kind), tokens(3, 50)
    mask = left_padded([50, 33, 6], 50)
    expected = dense_logits(model, ids, parse(policy), mask)
    for sizes in ([50], [13, 1, 36]):
        cache = BoundedCache(policy, config=model.config)
        got = chunked_logits(model, ids, cache, sizes, mask)
        assert difference(got[mask.bool()], expected[mask.bool()]) < CLOSE


@pytest.mark.parametrize(
    ("kind", "policy"),
    [(kind, policy) for kind in RULED for policy in (SCORED if kind in BOTH else SCORED[:1])],
)
def test_policies_by_score(kind: str, policy: str) -> None:
    """The attention that a key received leaves out what went to the sink."""
    model, ids = ruled(kind), distinct(2, LENGTH)
    expected, layers = logits_by(scored_reference, model, ids, parse(policy))
    assert all(len(layer.evictions) > 5 for row in layers for layer in row)
    for sizes in CHUNKINGS:
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


def test_the_attention_that_is_expected_of_capped_scores_has_no_formula() -> None:
    with pytest.raises(UnsupportedModelError, match=r"softcap.*expected-attention"):
        BoundedCache("expected-attention:20", config=ruled("gemma2").config)
    model, ids = ruled("gpt_oss"), distinct(1, LENGTH)
    policy = parse(f"expected-attention:{BUDGET}")
    expected, _ = logits_by(scored_reference, model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    assert difference(chunked_logits(model, ids, cache, [31, 1, 28]), expected) < CLOSE


@pytest.mark.parametrize("kind", BOTH)
def test_recall(kind: str) -> None:
    """The same blocks at every token, for votes count a cap and a sink too."""
    model, ids = ruled(kind), distinct(1, LENGTH)
    expected, (layers,) = logits_by(recall_reference, model, ids, parse(RECALL))
    cache = BoundedCache(RECALL, config=model.config)
    found = [layer for layer in cache.layers if isinstance(layer, RecallLayer)]
    logits = []
    with torch.no_grad():
        for index in range(LENGTH):
            logits.append(model(ids[:, index : index + 1], past_key_values=cache).logits)
            for mine, theirs in zip(found, layers, strict=True):
                assert mine.recalled() == theirs.after[index]
    assert difference(torch.cat(logits, 1), expected) < CLOSE
    for sizes in CHUNKINGS:
        cache = BoundedCache(RECALL, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize("kind", RULED)
def test_eight_bits_are_close(kind: str) -> None:
    """As close as for a model without such a rule; see test_quantized.py."""
    model, ids = ruled(kind), tokens(1, 110)
    expected = dense_logits(model, ids, parse("sinks:3,window=97"))
    cache = BoundedCache("sinks:3,window=97,kv=int8", config=model.config)
    found = chunked_logits(model, ids, cache, [50, 1, 1, 58])
    assert (found - expected).abs().mean() < 0.03 * expected.std()


@pytest.mark.parametrize("kind", RULED)
@pytest.mark.parametrize("policy", ["window:20", "sinks:3,window=17"])
def test_bfloat16_is_as_close_as_bfloat16_gets(kind: str, policy: str) -> None:
    ids = tokens(1, LENGTH)
    exact, model = ruled(kind), ruled(kind).bfloat16()
    dynamic = chunked_logits(model, ids, DynamicCache(config=model.config), [LENGTH])
    theirs = (dynamic - dense_logits(exact, ids, parse("full"))).abs().mean()
    expected = dense_logits(exact, ids, parse(policy))
    for sizes in CHUNKINGS:
        cache = BoundedCache(policy, config=model.config)
        got = chunked_logits(model, ids, cache, sizes)
        assert (got - expected).abs().mean() < 1.5 * theirs


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


def test_attention_that_leaves_the_rule_out_is_refused() -> None:
    """transformers refuses it too, unless it is set behind its back."""
    for kind in ("gemma2", "gpt_oss"):
        config = ruled(kind).config
        config._attn_implementation = "sdpa"
        with pytest.raises(UnsupportedModelError, match=r"set_attn_implementation\('eager'\)"):
            BoundedCache("window:20", config=config)
