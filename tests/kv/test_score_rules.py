"""Models that cap scores or have learned sinks, under every kind of policy, against references."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from tests.helpers.models import (
    chunked_logits,
    dense_logits,
    difference,
    distinct,
    left_padded,
    tokens,
)
from tests.helpers.recall_reference import recall_reference
from tests.helpers.ruled_models import BOTH, RULED, ruled
from tests.helpers.scored_reference import scored_reference
from tests.helpers.token_by_token import logits_by
from transom import BoundedCache
from transom.attention.score_rule import ScoreRule
from transom.errors import UnsupportedModelError
from transom.kv.recall import RecallLayer
from transom.policies import parse

LENGTH = 60
CLOSE = 1e-3  # of logits, in float32
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
