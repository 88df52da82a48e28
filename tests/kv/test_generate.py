"""`model.generate` with a bounded cache is `model.generate` under the policy's dense mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tests.helpers.models import dense_reference, left_padded, tiny, tokens
from tests.helpers.policy_examples import bounded
from transom.errors import CacheError
from transom.kv import BoundedCache
from transom.policies import Full, Policy, Sinks, Window, parse

NEW = 16


def generated(model: Any, ids: torch.Tensor, policy: Policy, **settings: Any) -> torch.Tensor:
    torch.manual_seed(3)
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **settings}
    cache = settings.pop("past_key_values", None) or BoundedCache(policy, config=model.config)
    return model.generate(ids, past_key_values=cache, **settings)


def expected(model: Any, ids: torch.Tensor, policy: Policy, **settings: Any) -> torch.Tensor:
    torch.manual_seed(3)
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **settings}
    with dense_reference(model, policy):
        return model.generate(ids, use_cache=False, **settings)


@pytest.mark.parametrize("policy", bounded(), ids=str)
@pytest.mark.parametrize("prompt", [1, 5, 19, 20, 21, 50])
def test_greedy_at_every_boundary(policy: Policy, prompt: int) -> None:
    model, ids = tiny("llama"), tokens(1, prompt)
    assert torch.equal(generated(model, ids, policy), expected(model, ids, policy))


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma3", "gpt-neox", "phi"])
def test_greedy_in_every_family(family: str) -> None:
    model, ids = tiny(family), tokens(1, 50)
    assert torch.equal(generated(model, ids, Sinks(3, 17)), expected(model, ids, Sinks(3, 17)))


@pytest.mark.parametrize("policy", bounded(), ids=str)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_prefill_in_chunks(policy: Policy, size: int) -> None:
    model, ids = tiny("llama"), tokens(1, 50)
    got = generated(model, ids, policy, prefill_chunk_size=size)
    assert torch.equal(got, expected(model, ids, policy))


@pytest.mark.parametrize("policy", bounded(), ids=str)
def test_sampling(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(2, 30)
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 20}
    assert torch.equal(
        generated(model, ids, policy, **settings), expected(model, ids, policy, **settings)
    )


@pytest.mark.parametrize("policy", bounded(), ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_beams(family: str, policy: Policy) -> None:
    model, ids = tiny(family), tokens(2, 30)
    settings = {"num_beams": 3, "num_return_sequences": 2}
    assert torch.equal(
        generated(model, ids, policy, **settings), expected(model, ids, policy, **settings)
    )


@pytest.mark.parametrize("policy", bounded(), ids=str)
@pytest.mark.parametrize("settings", [{}, {"prefill_chunk_size": 8}, {"num_beams": 2}], ids=str)
def test_left_padded_batch(policy: Policy, settings: dict[str, Any]) -> None:
    model = tiny("llama")
    mask = left_padded([30, 17, 4], 30)
    ids = tokens(3, 30) * mask
    got = generated(model, ids, policy, attention_mask=mask, **settings)
    settings.pop("prefill_chunk_size", None)
    assert torch.equal(got, expected(model, ids, policy, attention_mask=mask, **settings))


@pytest.mark.parametrize("only_new", [False, True])
@pytest.mark.parametrize("policy", [*bounded(), Full()], ids=str)
def test_several_turns(policy: Policy, only_new: bool) -> None:
    model, ids = tiny("llama"), tokens(2, 10)
    cache = BoundedCache(policy, config=model.config)
    for turn in range(4):
        before = cache.get_seq_length()
        new = ids[:, before:] if only_new else ids
        got = generated(
            model, new, policy, past_key_values=cache, attention_mask=torch.ones_like(ids)
        )
        full = expected(model, ids, policy, attention_mask=torch.ones_like(ids))
        assert torch.equal(got[:, -NEW:], full[:, -NEW:])
        ids = torch.cat((full, tokens(2, 5 + turn, seed=turn)), dim=1)


def test_several_turns_of_a_padded_batch() -> None:
    """Rows answer at different lengths, so the second turn has padding in the middle."""
    model, policy = tiny("llama"), Sinks(3, 17)
    mask = torch.cat((left_padded([12, 5], 12), left_padded([6, 9], 9)), dim=1)
    ids = tokens(2, 21) * mask
    cache = BoundedCache(policy, config=model.config)
    generated(
        model, ids[:, :12], policy, past_key_values=cache, attention_mask=mask[:, :12],
        max_new_tokens=1, min_new_tokens=1,
    )  # fmt: skip
    got = generated(model, ids, policy, past_key_values=cache, attention_mask=mask)
    assert torch.equal(got, expected(model, ids, policy, attention_mask=mask))


def test_assisted_decoding_is_right_while_everything_fits() -> None:
    model, assistant, ids = tiny("llama"), tiny("llama", num_hidden_layers=1), tokens(1, 10)
    assistant.generation_config.num_assistant_tokens = 4
    for policy in (Full(), Window(60), Sinks(4, 56)):
        got = generated(model, ids, policy, assistant_model=assistant)
        assert torch.equal(got, expected(model, ids, policy))


def test_assisted_decoding_lets_own_layers_give_up_what_they_recorded() -> None:
    model, assistant, ids = tiny("gemma3"), tiny("llama", num_hidden_layers=1), tokens(1, 30)
    assistant.generation_config.num_assistant_tokens = 4
    cache = BoundedCache(Full(), config=model.config)
    got = generated(model, ids, Full(), assistant_model=assistant, past_key_values=cache)
    assert torch.equal(got, expected(model, ids, Full()))
    recorded = cache.layers[0].keys.shape[2]
    cache.crop(0)
    assert cache.layers[0].keys.shape[2] == 7 <= recorded  # a window of 8 less the next query


def test_assisted_decoding_refuses_rather_than_being_wrong() -> None:
    model, assistant, ids = tiny("llama"), tiny("llama", num_hidden_layers=1), tokens(1, 10)
    with pytest.raises(CacheError, match="cannot come back"):
        generated(model, ids, Window(12), assistant_model=assistant)


FITS = ["full", "window:60", "sinks:3,window=60", "chunked:60,chunk=20", "hierarchical:60,global=8"]
FITS += ["window:80,kv=int8", "full:kv=int4"]  # the newest tokens wait to be quantized
EVICTS = ["window:12", "sinks:3,window=9", "chunked:24,chunk=8", "hierarchical:24,global=8"]
EVICTS += ["snapkv:12", "tova:12", "keydiff:12"]
EVICTS += ["hierarchical:8,global=100,recall=blocks,block=4,blocks=3,chunk=2"]
DRAFTS = ["an assistant", "the prompt"]


def drafted(text: str, drafts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What assisted decoding gives under a policy, and what decoding by itself gives."""
    policy, model, ids = parse(text), tiny("llama"), tokens(1, 10)
    # The model's own words are found in it again, so that some drafts are accepted.
    ids = torch.cat((generated(model, ids, policy), ids), 1)
    settings: dict[str, Any] = {"prompt_lookup_num_tokens": 4}
    if drafts == "an assistant":
        assistant = settings["assistant_model"] = tiny("llama", num_hidden_layers=1)
        del settings["prompt_lookup_num_tokens"]
        assistant.generation_config.num_assistant_tokens = 4
    return generated(model, ids, policy, **settings), generated(model, ids, policy)


@pytest.mark.parametrize("drafts", DRAFTS)
@pytest.mark.parametrize("text", FITS)
def test_assisted_decoding_under_any_policy_that_evicts_nothing(text: str, drafts: str) -> None:
    got, expected = drafted(text, drafts)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("drafts", DRAFTS)
@pytest.mark.parametrize("text", EVICTS)
def test_assisted_decoding_under_any_other_policy_is_refused(text: str, drafts: str) -> None:
    with pytest.raises(CacheError, match="cannot come back"):
        drafted(text, drafts)


def test_only_a_cache_that_was_told_of_drafts_leaves_the_answer_to_crop() -> None:
    """Asked unannounced, transformers may well crop once something has been evicted."""
    cache = BoundedCache(Window(60), config=tiny("llama").config)
    assert not cache.is_croppable
    cache.activate_past_recording()
    assert cache.is_croppable


def test_a_million_tokens_of_capacity_cost_nothing_until_used() -> None:
    """The comparison with transformers' own cache, when nothing is ever evicted."""
    model, ids = tiny("llama"), tokens(2, 30)
    theirs = generated(model, ids, Full(), past_key_values=DynamicCache(config=model.config))
    assert torch.equal(generated(model, ids, Window(10_000)), theirs)
