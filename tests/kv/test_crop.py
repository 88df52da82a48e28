"""Dropping the newest tokens: exact, or refused with its reason and nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.models import chunked_logits, difference, tiny, tokens
from transom import BoundedCache, Context
from transom.errors import CacheError, InputError
from transom.policies import parse

POLICIES = ["full", "window:40", "sinks:4,window=36", "snapkv:40", "sinks:4,window=36,kv=int8"]
PADDED = {
    "left": [[1] * 14, [0] * 5 + [1] * 9],
    "right": [[1] * 14, [1] * 9 + [0] * 5],
    "middle": [[1] * 14, [1] * 4 + [0] * 5 + [1] * 5],
    "both rows": [[1] * 11 + [0] * 3, [0] * 2 + [1] * 10 + [0] * 2],
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("dropped", [1, 7])
def test_padded_rows_are_cropped_by_columns(policy: str, padding: str, dropped: int) -> None:
    """As if the dropped columns, padding among them, had never been fed."""
    model, ids = tiny("llama"), tokens(2, 14 + 6)
    mask = torch.tensor(PADDED[padding])
    kept = 14 - dropped
    cropped, never = (BoundedCache(parse(policy), config=model.config) for _ in range(2))
    chunked_logits(model, ids, cropped, [14], mask)
    cropped.crop(-dropped)
    chunked_logits(model, ids, never, [kept], mask[:, :kept])
    assert cropped.seen == never.seen == kept
    assert cropped.planner.lengths == never.planner.lengths
    more, whole = ids[:, 14:], torch.cat((mask[:, :kept], torch.ones(2, 6).long()), 1)
    found = [
        model(more, past_key_values=cache, attention_mask=whole).logits.detach()
        for cache in (cropped, never)
    ]
    assert difference(*found) < 1e-4


def test_what_is_padding_survives_a_state_and_beams() -> None:
    model, ids = tiny("llama"), tokens(2, 14)
    cache = BoundedCache(parse("window:40"), config=model.config)
    chunked_logits(model, ids, cache, [14], torch.tensor(PADDED["right"]))
    loaded = BoundedCache(parse("window:40"), config=model.config)
    loaded.load_state_dict(cache.state_dict(), torch.device("cpu"))
    loaded.reorder_cache(torch.tensor([1, 0]))
    loaded.crop(-7)
    assert loaded.planner.lengths == [7, 7]
    assert loaded.planner.real is None


HYBRIDS: list[tuple[str, dict[str, Any]]] = [
    ("gemma3", {}),
    ("lfm2", {}),
    ("lfm2", {"layer_types": ["full_attention", "full_attention", "conv"]}),
]


@pytest.mark.parametrize(("family", "changes"), HYBRIDS)
@pytest.mark.parametrize("policy", ["full", "window:30", "snapkv:30"])
@pytest.mark.parametrize(("fed", "dropped"), [(6, 2), (8, 1), (20, 3), (20, 20)])
@pytest.mark.parametrize("recording", [False, True])
def test_layers_of_the_models_own_are_asked_too(
    family: str, changes: dict[str, Any], policy: str, fed: int, dropped: int, recording: bool
) -> None:
    model, ids = tiny(family, **changes), tokens(1, fed + 8)
    cache = BoundedCache(parse(policy), config=model.config)
    if recording:
        cache.activate_past_recording()
    chunked_logits(model, ids, cache, [fed])
    state = {name: tensor.clone() for name, tensor in cache.state_dict().items()}
    if not cache.can_crop(dropped):
        with pytest.raises(CacheError, match="model's own"):
            cache.crop(-dropped)
        after = cache.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
        return
    cache.crop(-dropped)
    never = BoundedCache(parse(policy), config=model.config)
    if fed > dropped:
        chunked_logits(model, ids, never, [fed - dropped])
    more = ids[:, fed:]
    found = [model(more, past_key_values=x).logits.detach() for x in (cache, never)]
    assert difference(*found) < 1e-4


def test_recording_lets_hybrids_be_cropped_and_nothing_else_does() -> None:
    for family in ("gemma3", "lfm2"):
        model = tiny(family)
        for recording in (False, True):
            cache = BoundedCache(parse("full"), config=model.config)
            if recording:
                cache.activate_past_recording()
            chunked_logits(model, tokens(1, 20), cache, [20])
            assert cache.can_crop(3) == recording
            assert cache.can_crop(0)
            cache.crop(0)


def test_a_context_on_a_hybrid_trims_or_refuses() -> None:
    model = tiny("lfm2")
    context = Context(model, policy="full")
    context.append(tokens(1, 9)[0])
    usage = context.usage
    with pytest.raises(CacheError, match="LinearAttention"):
        context.trim_to(7)
    assert context.usage == usage


@pytest.mark.parametrize(
    ("policy", "fed", "dropped", "reason"),
    [
        ("full", 5, 6, "only 5 have been seen"),
        ("window:8", 20, 1, "evicted others"),
        ("full:kv=int8", 90, 1, "stored in int8"),
        ("heavy-hitters:30", 20, 1, "had a say"),
    ],
)
def test_the_reason_is_the_one_that_holds(policy: str, fed: int, dropped: int, reason: str) -> None:
    model = tiny("llama")
    cache = BoundedCache(parse(policy), config=model.config)
    chunked_logits(model, tokens(1, fed), cache, [fed])
    with pytest.raises(CacheError, match=reason):
        cache.crop(-dropped)
    assert cache.seen == fed


@pytest.mark.parametrize("number", [1.5, -1.0, "3", None, True])
def test_what_is_no_number_of_tokens_is_refused(number: Any) -> None:
    model = tiny("llama")
    cache = BoundedCache("full", config=model.config)
    chunked_logits(model, tokens(1, 9), cache, [9])
    for call in (cache.can_crop, cache.crop):
        with pytest.raises(InputError, match="whole number"):
            call(number)
    with pytest.raises(InputError, match="at least 0"):
        cache.can_crop(-1)
    cache.crop(torch.tensor(-2))
    assert cache.seen == 7
    assert isinstance(cache.seen, int)


@pytest.mark.parametrize("family", ["gemma3", "lfm2"])
def test_nothing_is_cropped_from_what_has_seen_nothing(family: str) -> None:
    """Layers that record are asked to give up what they recorded, of which there is none yet."""
    model = tiny(family)
    cache = BoundedCache("full", config=model.config)
    cache.activate_past_recording()
    cache.crop(0)
    chunked_logits(model, tokens(1, 20), cache, [20])
    cache.crop(-3)
    assert cache.seen == 17
