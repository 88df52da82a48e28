"""Policies by score: the cache against a slow reference of each paper's rule, and its promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from tests.helpers.cache_contract import CLOSE, Contract
from tests.helpers.models import CONFIGS, chunked_logits, difference, distinct, tiny, tokens
from tests.helpers.scored_reference import RULES, scored_reference
from transom.kv import BoundedCache
from transom.kv.scored import ScoredLayer
from transom.policies import ModelShape, Scored, SnapKV, known, kv_bytes_bound, parse

CONTRACT = Contract(scored_reference, length=40)
reference = CONTRACT.reference
LENGTH = 60
BUDGET = "20,sinks=2,recent=5,every=3"
SCORED = [name for name, kind in known().items() if issubclass(kind, Scored)]
SPELLED = [
    *(f"{name}:{BUDGET}" for name in SCORED),
    *(f"{name}:{BUDGET},heads=adaptive" for name in SCORED if known()[name].per_head),
    *(f"{name}:{BUDGET},layers=pyramid" for name in ("snapkv", "tova")),
    f"keydiff:{BUDGET},heads=adaptive,layers=pyramid",
    "tova:16,sinks=0,recent=1,every=1",
    "heavy-hitters:16,sinks=1,recent=8,every=7",
]
CHUNKINGS = {
    "1": [1] * LENGTH,
    "7": [7] * 8 + [4],
    "all": [LENGTH],
    "mixed": [1, 18, 1, 1, 2, 30, 1, 6],
}


def policies() -> list[Scored]:
    return [parse(text) for text in SPELLED]  # type: ignore[misc]


def scored_layers(cache: BoundedCache) -> list[ScoredLayer]:
    return [layer for layer in cache.layers if isinstance(layer, ScoredLayer)]


def test_every_scored_policy_has_a_reference() -> None:
    assert sorted(RULES) == sorted(SCORED)


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_every_eviction_is_the_papers(policy: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores and the same tokens kept, in every head of every layer, at every token."""
    model, ids = tiny("llama"), distinct(1, LENGTH)
    expected, (layers,) = reference(model, ids, policy)
    scores: dict[int, list[Any]] = {}
    plain = ScoredLayer.look

    def look(self: ScoredLayer, *args: Any) -> Any:
        kept = plain(self, *args)
        found = self.policy.score(kept)
        scores.setdefault(self.index, []).append(found[0].clone())
        return kept

    monkeypatch.setattr(ScoredLayer, "look", look)
    cache = BoundedCache(policy, config=model.config)
    logits = []
    with torch.no_grad():
        for index in range(LENGTH):
            logits.append(model(ids[:, index : index + 1], past_key_values=cache).logits)
            for mine, theirs in zip(scored_layers(cache), layers, strict=True):
                held = [positions.tolist() for positions in mine.kept_positions()]
                assert held == theirs.after[index]
    assert difference(torch.cat(logits, 1), expected) < 1e-4
    for index, layer in enumerate(layers):
        assert len(layer.evictions) >= 5
        ours = scores[index]
        if policy.heads == "adaptive":  # heads were looked at one by one
            heads = len(layer.heads)
            ours = [[part[0] for part in ours[i : i + heads]] for i in range(0, len(ours), heads)]
        for eviction, found in zip(layer.evictions, ours, strict=True):
            for theirs, head in zip(eviction.scores, found, strict=True):
                finite = torch.tensor(theirs).isfinite()
                wanted = torch.tensor(theirs)[finite]
                assert torch.allclose(head[: len(theirs)][finite], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_any_chunking_is_the_reference(policy: Scored) -> None:
    model, ids = tiny("llama"), distinct(1, LENGTH)
    expected, _ = reference(model, ids, policy)
    for sizes in CHUNKINGS.values():
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (family, name)
        for family in ("qwen3", "gemma3", "gpt-neox", "phi", "smollm3", "lfm2")
        for name in SCORED
        # Where keys are normed, they all have the same norm at random initialisation.
        if name != "key-norm" or family not in ("qwen3", "gemma3", "lfm2")
    ],
)
def test_other_families(family: str, name: str) -> None:
    model, ids = tiny(family), distinct(1, 40)
    policy = parse(f"{name}:{BUDGET}")
    expected, _ = reference(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    assert difference(chunked_logits(model, ids, cache, [11, 1, 1, 27]), expected) < CLOSE


@pytest.mark.parametrize("name", SCORED)
def test_absolute_positions(name: str) -> None:
    model, ids = tiny("llama"), distinct(1, LENGTH)
    policy = parse(f"{name}:{BUDGET}")
    expected, _ = reference(model, ids, policy, compact=False)
    for sizes in CHUNKINGS.values():
        cache = BoundedCache(policy, config=model.config, positions="absolute")
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE
    assert difference(reference(model, ids, policy)[0], expected) > 0.01


@pytest.mark.parametrize("text", [*SCORED, "keydiff:heads=adaptive"])
@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "mistral-sliding"])
def test_room_for_everything_is_a_dynamic_cache(family: str, text: str) -> None:
    model, ids = tiny(family), tokens(2, LENGTH)
    policy = parse(f"{text.replace(':', f':{LENGTH},') if ':' in text else f'{text}:{LENGTH}'}")
    for sizes in CHUNKINGS.values():
        theirs = chunked_logits(model, ids, DynamicCache(config=model.config), sizes)
        ours = chunked_logits(model, ids, BoundedCache(policy, config=model.config), sizes)
        assert difference(ours, theirs) < CLOSE


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_padded_rows_are_the_rows_alone(policy: Scored) -> None:
    CONTRACT.padded_rows_are_the_rows_alone(policy)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_budget_any_padding_any_chunking(data: st.DataObject) -> None:
    model = tiny("llama")
    name = data.draw(st.sampled_from(SCORED))
    kind: Any = known()[name]
    sinks, recent, every = (data.draw(st.integers(low, 6)) for low in (0, 1, 1))
    size = data.draw(st.integers(max(2, sinks + recent + every), 24))
    heads = data.draw(st.sampled_from(["equal", "adaptive"])) if kind.per_head else "equal"
    # Averaged over neighbours, the scores of two tokens alone would be the same: a tie.
    own = {"kernel": 1} if name == "snapkv" else {}
    policy = kind(size, sinks=sinks, recent=recent, every=every, heads=heads, **own)
    rows, length = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 30))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    mask = torch.tensor(bits).reshape(rows, length).long()
    sizes: list[int] = []
    while sum(sizes) < length:
        sizes.append(data.draw(st.integers(1, length - sum(sizes))))
    ids = distinct(rows, length)
    expected, _ = reference(model, ids, policy, mask)
    cache = BoundedCache(policy, config=model.config)
    got = chunked_logits(model, ids, cache, sizes, mask)
    real = mask.bool()
    if real.any():
        assert difference(got[real], expected[real]) < CLOSE
    assert cache.planner.lengths == mask.sum(1).tolist()


def test_tokens_that_watch_stay_whatever_other_heads_receive() -> None:
    """With budgets shared among heads, one head's tokens compete with those of another."""
    model, ids = tiny("llama"), distinct(1, 5)
    policy = SnapKV(4, sinks=0, recent=1, every=2, heads="adaptive", kernel=1)
    expected, _ = reference(model, ids, policy, torch.ones(1, 5).long())
    got = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [5])
    assert difference(got, expected) < CLOSE


@pytest.mark.parametrize("kv", ["auto", "int8", "int4"])
@pytest.mark.parametrize("policy", policies(), ids=str)
def test_bytes_are_the_bound_and_never_more(policy: Scored, kv: str) -> None:
    """Also with unequal budgets: what is allocated, not what is masked."""
    model = tiny("llama")
    policy = parse(f"{policy},kv={kv}")  # type: ignore[assignment]
    bound = kv_bytes_bound(policy, ModelShape.from_config(model.config), batch=2)
    cache = BoundedCache(policy, config=model.config)
    for sizes in ([1], [5], [40], [1], [14]):
        chunked_logits(model, tokens(2, LENGTH), cache, sizes) if sizes else None
        assert cache.nbytes == bound
        for layer in scored_layers(cache):
            assert sum(map(len, layer.kept_positions(1))) <= layer.policy.tokens * len(
                layer.extra[1]
            )


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_beams_reorder_repeat_and_reset(policy: Scored) -> None:
    CONTRACT.beams_reorder_repeat_and_reset(policy)


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_generate(policy: Scored) -> None:
    CONTRACT.generate(policy)


@pytest.mark.parametrize("heads", ["equal", "adaptive"])
@pytest.mark.parametrize("score", [float("inf"), float("-inf"), float("nan")])
def test_what_must_stay_does_so_whatever_the_scores_are(
    heads: str, score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = parse(f"key-norm:20,sinks=2,recent=5,every=3,heads={heads}")
    assert isinstance(policy, Scored)
    monkeypatch.setattr(
        type(policy), "score", lambda self, kept: torch.full_like(kept.received, score)
    )
    model = tiny("llama")
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, distinct(1, 21), cache, [20, 1])
    must = {*range(policy.sinks), *range(20 - policy.newest, 21)}
    for layer in scored_layers(cache):
        assert all(must <= set(kept.tolist()) for kept in layer.kept_positions())
