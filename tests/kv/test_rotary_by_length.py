"""Models whose frequencies depend on the length of the text: constant ones under a policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, Phi3Config, PhimoeConfig

from tests.helpers.models import (
    GROUPED,
    chunked_logits,
    difference,
    left_padded,
    tokens,
)
from tests.helpers.subsequence_reference import logits_by_subsequence
from transom import BoundedCache, Context
from transom.attention import OptimizedAttention
from transom.attention.rotary import Rotary
from transom.errors import CacheError, UnsupportedModelError
from transom.policies import parse

TRAINED = 32  # tokens; the frequencies change beyond
LENGTH = 80
CLOSE = 1e-3
SMALL = ["window:20", "sinks:3,window=17", "chunked:20,chunk=6", "sinks:3,window=17,kv=int8"]
# The last two keep more than the trained length, so that the frequencies are the long ones.
POLICIES = [*SMALL[:3], "window:48", "sinks:4,window=44"]
CHUNKINGS = {
    "1": [1] * LENGTH,
    "7": [7] * 11 + [3],
    "64": [64, 16],
    "all": [LENGTH],
    "mixed": [1, 18, 1, 1, 2, 30, 1, 26],
}


def factors(count: int) -> dict[str, list[float]]:
    return {
        "short_factor": [1.0 + 0.1 * n for n in range(count)],
        "long_factor": [2.0 + 0.7 * n for n in range(count)],
    }


def longrope(layers: int = 1, partial: float = 1.0, **changes: Any) -> Any:
    """A small Phi-3 with longrope; weights are large, so that positions matter."""
    config = Phi3Config(
        **{
            **GROUPED,
            "num_hidden_layers": layers,
            "max_position_embeddings": 4 * TRAINED,
            "original_max_position_embeddings": TRAINED,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": partial,
                "original_max_position_embeddings": TRAINED,
                **factors(int(8 * partial) // 2),
            },
            **changes,
        }
    )
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def dynamic(layers: int = 1) -> Any:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    given = {**GROUPED, "num_hidden_layers": layers, "max_position_embeddings": 2 * TRAINED}
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(
        LlamaConfig(**given, rope_parameters=rope), attn_implementation="sdpa"
    ).eval()


def constant(model: Any, capacity: int) -> Any:
    """The same model with the frequencies of a text of `capacity` tokens for every length."""
    rope = model.config.rope_parameters
    which = "long_factor" if capacity > TRAINED else "short_factor"
    same = {"short_factor": rope[which], "long_factor": rope[which]}
    twin = longrope(
        model.config.num_hidden_layers,
        rope["partial_rotary_factor"],
        rope_parameters={**rope, **same},
    )
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize("partial", [1.0, 0.5])
@pytest.mark.parametrize("text", POLICIES)
def test_any_chunking_is_the_model_with_constant_frequencies(text: str, partial: float) -> None:
    model, ids, policy = longrope(partial=partial), tokens(1, LENGTH), parse(text)
    expected = logits_by_subsequence(constant(model, policy.capacity), ids, policy)
    for sizes in CHUNKINGS.values():
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


def test_the_two_sets_of_frequencies_differ() -> None:
    """So that the equality above says something."""
    model, ids, policy = longrope(), tokens(1, LENGTH), parse("window:20")
    short, long = (logits_by_subsequence(constant(model, n), ids, policy) for n in (20, 48))
    assert difference(short, long) > 0.1


def test_a_short_policy_is_what_the_model_itself_does_with_short_texts() -> None:
    model, ids, policy = longrope(), tokens(1, LENGTH), parse("sinks:3,window=17")
    expected = logits_by_subsequence(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    assert difference(chunked_logits(model, ids, cache, [13] * 6 + [2]), expected) < CLOSE


@pytest.mark.parametrize(
    "text",
    [
        "window:20",
        "sinks:3,window=17",
        "window:48",
        "sinks:3,window=17,kv=int8",
        "heavy-hitters:20",
        "snapkv:20",
        "hierarchical:8,global=1000,recall=blocks,block=4,blocks=3,chunk=2",
    ],
)
def test_all_kinds_of_policies_in_a_deep_model(text: str) -> None:
    """The bounded model at changing frequencies is the bounded model at constant ones."""
    policy = parse(text)
    model, ids = longrope(layers=2), tokens(1, LENGTH)
    twin = constant(model, policy.capacity)
    sizes = [1, 18, 1, 1, 2, 30, 1, LENGTH - 54]
    expected = chunked_logits(twin, ids, BoundedCache(policy, config=twin.config), sizes)
    got = chunked_logits(model, ids, BoundedCache(policy, config=model.config), sizes)
    assert difference(got, expected) < CLOSE


@pytest.mark.parametrize("text", ["sinks:3,window=17", "window:48", "heavy-hitters:20"])
def test_padded_rows_are_the_rows_alone(text: str) -> None:
    """The model takes the longest row for the length of all."""
    model, ids = longrope(layers=2), tokens(3, 60)
    mask = left_padded([60, 37, 6], 60)
    for sizes in ([60], [1] * 60, [7] * 8 + [4], [13, 1, 46]):
        cache = BoundedCache(text, config=model.config)
        got = chunked_logits(model, ids, cache, sizes, mask)
        for row, length in enumerate((60, 37, 6)):
            cache = BoundedCache(text, config=model.config)
            alone = chunked_logits(model, ids[row : row + 1, 60 - length :], cache, [length])
            assert difference(got[row, 60 - length :], alone[0]) < CLOSE


@pytest.mark.parametrize("text", ["sinks:3,window=17", "window:48", "heavy-hitters:20"])
def test_padded_rows_need_their_position_ids(text: str) -> None:
    model, ids, mask = longrope(layers=2), tokens(2, 40), left_padded([40, 20], 40)
    cache = BoundedCache(text, config=model.config)
    with pytest.raises(CacheError, match=r"position_ids.*model\.generate"):
        model(ids, past_key_values=cache, attention_mask=mask)


def test_rebasing_changes_nothing() -> None:
    model, ids, policy = longrope(layers=2), tokens(1, LENGTH), parse("sinks:3,window=17")
    expected = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [LENGTH])
    cache, logits = BoundedCache(policy, config=model.config), []
    with torch.no_grad():
        for start in range(0, LENGTH, 8):
            if start in (32, 56):
                cache.rebase(20)
            places = torch.arange(8)[None] + cache.next_position
            chunk = ids[:, start : start + 8]
            logits.append(model(chunk, past_key_values=cache, position_ids=places).logits)
    assert difference(torch.cat(logits, 1), expected) < CLOSE


@pytest.mark.parametrize("prompt", [10, 50])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prefill_chunk_size": 8}])
def test_generate_keeps_the_cache(prompt: int, options: dict[str, Any]) -> None:
    """Phi-3 drops its cache when a text gets longer than the trained length."""
    model, policy = longrope(layers=2), parse("sinks:3,window=17")
    twin = constant(model, policy.capacity)
    results = []
    for each in (model, twin):
        cache = BoundedCache(policy, config=each.config)
        given = {"past_key_values": cache, "max_new_tokens": 40, "eos_token_id": None}
        ids = each.generate(tokens(2, prompt), do_sample=False, **given, **options)
        assert cache.seen == prompt + 39
        results.append(ids)
    assert torch.equal(*results)


def test_a_state_goes_on_where_it_was_saved() -> None:
    model, ids, policy = longrope(layers=2), tokens(1, LENGTH), parse("sinks:3,window=17")
    cache = BoundedCache(policy, config=model.config)
    expected = chunked_logits(model, ids, cache, [25, LENGTH - 25])
    before = BoundedCache(policy, config=model.config)
    chunked_logits(model, ids[:, :25], before, [25])
    after, twin = BoundedCache(policy, config=model.config), before.fork()
    state = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    after.load_state_dict(state, torch.device("cpu"))
    places = torch.arange(25, LENGTH)[None]
    for each in (after, twin):
        with torch.no_grad():
            got = model(ids[:, 25:], past_key_values=each, position_ids=places).logits
        assert difference(got, expected[:, 25:]) < CLOSE


def test_bfloat16() -> None:
    model, ids, policy = longrope(layers=2), tokens(1, LENGTH), parse("sinks:3,window=17")
    expected = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [LENGTH])
    twin = constant(model, policy.capacity).bfloat16()
    theirs = chunked_logits(twin, ids, BoundedCache(policy, config=twin.config), [7] * 11 + [3])
    model = model.bfloat16()
    ours = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [7] * 11 + [3])
    assert (ours - expected).abs().mean() < 1.25 * (theirs - expected).abs().mean()


def test_weights_are_those_of_constant_frequencies() -> None:
    model, ids, policy = longrope(layers=2), tokens(1, 50), parse("sinks:3,window=17")
    found = []
    for each in (model, constant(model, policy.capacity)):
        each.set_attn_implementation("eager")
        cache = BoundedCache(policy, config=each.config)
        with torch.no_grad():
            each(ids[:, :49], past_key_values=cache)
            out = each(ids[:, 49:], past_key_values=cache, output_attentions=True)
        found.append(torch.stack(out.attentions))
    assert difference(*found) < 1e-4


def test_a_full_policy_is_a_dynamic_cache() -> None:
    model, ids = longrope(layers=2), tokens(1, LENGTH)
    theirs = chunked_logits(model, ids, DynamicCache(config=model.config), [30, 1, 49])
    ours = chunked_logits(model, ids, BoundedCache("full", config=model.config), [30, 1, 49])
    assert difference(ours, theirs) < CLOSE


@pytest.mark.parametrize(
    ("text", "positions"), [("window:20", "absolute"), ("full:kv=int8", "compact")]
)
def test_distances_without_bound_are_refused(text: str, positions: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="distances grow without bound"):
        BoundedCache(text, config=longrope().config, positions=positions)


def test_compiled_steps_and_layers_of_ones_own_are_refused() -> None:
    model = longrope()
    with pytest.raises(UnsupportedModelError, match=r"same frequencies.*'longrope'"):
        Context(model, policy="window:20", compile=True)
    layer = OptimizedAttention(
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        rotary=Rotary(1e4 ** (-torch.arange(0, 8, 2).double() / 8)),
    )
    cache = BoundedCache("window:20", config=model.config)
    with pytest.raises(CacheError, match="rotates keys differently"):
        layer(torch.randn(1, 4, 32), cache=cache, layer_idx=0)


def test_scales_that_depend_on_the_length_are_refused() -> None:
    """PhiMoE scales what it rotates by another factor in long texts."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": TRAINED,
        "short_mscale": 1.0,
        "long_mscale": 1.4,
        **factors(4),
    }
    config = PhimoeConfig(**GROUPED, num_local_experts=2, rope_parameters=rope)
    with pytest.raises(
        UnsupportedModelError, match="phimoe has rotary frequencies or scales that depend"
    ):
        BoundedCache("window:20", config=config)


@pytest.mark.parametrize("text", ["sinks:3,window=17", "heavy-hitters:20"])
def test_dynamic_frequencies_below_the_trained_length(text: str) -> None:
    """Whatever the model was given in between."""
    model, ids = dynamic(layers=2), tokens(1, 60)
    plain = LlamaConfig(**{**model.config.to_dict(), "rope_parameters": None})
    torch.manual_seed(7)
    twin = AutoModelForCausalLM.from_config(plain, attn_implementation="sdpa").eval()
    expected = chunked_logits(twin, ids, BoundedCache(text, config=twin.config), [20, 1, 39])
    cache = BoundedCache(text, config=model.config)
    first = chunked_logits(model, ids[:, :20], cache, [20])
    with torch.no_grad():
        model(tokens(1, 200), use_cache=False)
        places = torch.arange(20, 60)[None]
        rest = model(ids[:, 20:], past_key_values=cache, position_ids=places).logits
    assert difference(torch.cat((first, rest), 1), expected) < CLOSE
    with pytest.raises(CacheError, match=r"depend on earlier passes from position 63 on"):
        model(tokens(1, 4), past_key_values=cache)


def test_a_context_goes_on_with_dynamic_frequencies() -> None:
    model, ids = dynamic(layers=2), tokens(300)
    plain = LlamaConfig(**{**model.config.to_dict(), "rope_parameters": None})
    torch.manual_seed(7)
    twin = AutoModelForCausalLM.from_config(plain, attn_implementation="sdpa").eval()
    scores = [
        Context(each, policy="sinks:3,window=17", chunk=32).score(ids.tolist())[1:]
        for each in (model, twin)
    ]
    assert abs(scores[0] - scores[1]).max() < CLOSE


def test_more_tokens_than_the_trained_length_are_refused_with_dynamic_frequencies() -> None:
    with pytest.raises(UnsupportedModelError, match="fewer than 64 tokens"):
        BoundedCache("window:64", config=dynamic().config)
