"""Save, load, fork and trim: a context goes on as if nothing had happened, under every policy."""

from __future__ import annotations

import gc
import json
import os
import random
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tests.helpers.letters import tokenizer_of
from tests.helpers.models import ids_of, tiny, tokens
from tests.helpers.policy_examples import stored_in_every_way
from transom import Context
from transom.errors import CacheError, InputError, StateError
from transom.kv import BoundedCache
from transom.policies import parse
from transom.state import read_state, write_state

POLICIES = stored_in_every_way()
FAMILIES = ["llama", "gemma3", "lfm2"]
LENGTHS = [0, 20, 47, 130]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_context_goes_on_as_if_it_had_never_been_saved(
    policy: str, family: str, tmp_path: Path
) -> None:
    """Losses are equal bit for bit in float32, and so are the bytes held."""
    model = tiny(family)
    for length in LENGTHS:
        context = Context(model, policy=policy, chunk=32)
        context.append(ids_of(length))
        written = context.save(tmp_path / "state")
        assert written == os.path.getsize(tmp_path / "state")
        loaded = Context.load(tmp_path / "state", model)
        if family != "gemma3" and not policy.startswith("full"):
            # Gemma's own sliding layers hold on to more than they show; full storage has room to
            # spare, which is not saved.
            assert loaded.usage == context.usage
        assert loaded.usage[:3] == context.usage[:3]
        assert loaded.usage.kv_bytes <= context.usage.kv_bytes
        assert loaded.policy == context.policy
        more = ids_of(40, seed=1)
        expected = context.score(more)
        np.testing.assert_array_equal(loaded.score(more), expected)
        np.testing.assert_array_equal(loaded.score(more[:5]), context.score(more[:5]))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", ["llama", "lfm2"])
def test_forks_are_independent(policy: str, family: str) -> None:
    """Storage is shared until the first write, also among forks of forks."""
    model = tiny(family)
    for length in (15, 47):
        context = Context(model, policy=policy, chunk=32)
        context.append(ids_of(length))
        one = context.fork()
        two = one.fork()
        parts = [ids_of(30, seed=seed) for seed in (1, 2, 3)]
        alone = []
        for part in parts:
            fresh = Context(model, policy=policy, chunk=32)
            fresh.append(ids_of(length))
            alone.append(fresh.score(part))
        np.testing.assert_array_equal(one.score(parts[0]), alone[0])
        np.testing.assert_array_equal(context.score(parts[1]), alone[1])
        np.testing.assert_array_equal(two.score(parts[2]), alone[2])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_free_as_soon_as_nobody_holds_a_context(policy: str, family: str) -> None:
    """There are no reference cycles, so memory does not wait for the garbage collector."""
    context = Context(tiny(family), policy=policy, chunk=32)
    context.append(ids_of(47))
    twin = context.fork()
    twin.append(ids_of(40))
    held = [weakref.ref(x) for one in (context, twin) for x in (one.cache, *one.cache.layers)]
    gc.disable()
    try:
        del context, twin
        assert [one() for one in held if one() is not None] == []
    finally:
        gc.enable()


def test_a_fork_shares_storage_until_one_writes() -> None:
    context = Context(tiny("llama"), policy="snapkv:20")
    context.append(ids_of(30))
    pointers = [x.data_ptr() for x in context.cache.layers[0].tensors.values()]
    twin = context.fork()
    assert [x.data_ptr() for x in twin.cache.layers[0].tensors.values()] == pointers
    twin.append([5])
    assert [x.data_ptr() for x in context.cache.layers[0].tensors.values()] == pointers
    assert not {x.data_ptr() for x in twin.cache.layers[0].tensors.values()} & set(pointers)
    third = context.fork()
    del twin, third  # a deleted fork shares nothing
    context.append([5])
    assert [x.data_ptr() for x in context.cache.layers[0].tensors.values()] == pointers


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", ["llama", "smollm3"])
def test_trimming_is_exact_or_refused(policy: str, family: str) -> None:
    model = tiny(family)
    outcomes = set()
    for length in (6, 15, 22, 130):
        for drop in (1, 3, length):
            context = Context(model, policy=policy, chunk=32)
            context.append(ids_of(length - drop))
            before = context.fork()
            context.append(ids_of(drop, seed=2))
            seen = context.usage
            if not context.cache.can_crop(drop):
                with pytest.raises(CacheError, match="cannot remove"):
                    context.trim_to(length - drop)
                assert context.usage == seen
                outcomes.add("refused")
                continue
            context.trim_to(length - drop)
            outcomes.add("exact")
            assert context.usage.seen == length - drop
            more = ids_of(40, seed=3)
            np.testing.assert_array_equal(context.score(more)[1:], before.score(more)[1:])
    if "heavy" in policy or "expected" in policy or "pyramid" in policy:
        assert outcomes == {"refused"}
    elif policy == "full":
        assert outcomes == {"exact"}
    else:
        assert outcomes == {"exact", "refused"}


def test_after_trimming_the_next_token_is_unknown() -> None:
    context = Context(tiny("llama"), policy="full", tokenizer=object())
    context.append(ids_of(9))
    context.trim_to(9)
    assert np.isfinite(context.score([4])[0])
    context.trim_to(5)
    assert np.isnan(context.score([4, 5])[0])
    context.trim_to(5)
    with pytest.raises(InputError, match="trimmed"):
        context.generate()
    with pytest.raises(InputError, match="only 5 were seen"):
        context.trim_to(6)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_dict_goes_through_safetensors(policy: str, tmp_path: Path) -> None:
    """With several rows, although a Context has only one."""
    from safetensors.torch import load_file, save_file

    model = tiny("llama")
    cache = BoundedCache(parse(policy), config=model.config)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, :9] = 0
    with torch.no_grad():
        model(tokens(2, 40), attention_mask=mask, past_key_values=cache)
    state = {name: x.clone() for name, x in cache.state_dict().items() if x.numel()}
    save_file(state, tmp_path / "cache.safetensors")
    twin = BoundedCache(parse(policy), config=model.config)
    twin.load_state_dict(load_file(tmp_path / "cache.safetensors"), torch.device("cpu"))
    assert twin.nbytes <= cache.nbytes  # unused slots of full storage are not saved
    mask = torch.cat((mask, torch.ones(2, 7, dtype=torch.long)), dim=1)
    with torch.no_grad():
        one, other = (
            model(tokens(2, 7, seed=1), attention_mask=mask, past_key_values=x).logits
            for x in (cache, twin)
        )
    assert torch.equal(one, other)


def test_a_state_is_refused_by_another_cache() -> None:
    model = tiny("llama")
    cache = BoundedCache(parse("window:20"), config=model.config)
    other = BoundedCache(parse("window:21"), config=model.config)
    with pytest.raises(StateError, match=r"saved under window:20 .* has window:21"):
        other.load_state_dict(cache.state_dict(), torch.device("cpu"))


def test_the_file_is_a_safetensors_file(tmp_path: Path) -> None:
    context = Context(tiny("llama").bfloat16(), policy="sinks:3,window=17,kv=int8")
    context.append(ids_of(90))
    context.save(tmp_path / "state")
    with safe_open(tmp_path / "state", "pt") as file:
        names = file.keys()
        facts = json.loads(file.metadata()["facts"])
        assert {"seen", "lengths", "layers.0.keys.codes", "layers.2.values.newest"} <= set(names)
        assert facts["policy"] == "sinks:3,window=17,kv=int8"
        loaded = Context.load(tmp_path / "state", context.model)
        for name in names:
            assert torch.equal(file.get_tensor(name), read_state(tmp_path / "state")[0][name])
    assert loaded.cache.layers[0].tensors["values.newest"].dtype == torch.bfloat16


@pytest.mark.parametrize("where", ["anywhere", "header"])
def test_a_changed_byte_is_noticed(where: str, tmp_path: Path) -> None:
    context = Context(tiny("llama"), policy="snapkv:20")
    context.append(ids_of(50))
    path = tmp_path / "state"
    context.save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    generator = random.Random(5)
    places = [0, 3, 7, 8, header - 1, len(whole) - 1] if where == "header" else []
    while len(places) < 40:
        places.append(generator.randrange(header if where == "header" else len(whole)))
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= generator.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(StateError, match=r"damaged|another format"):
            Context.load(path, context.model)
    for stop in (0, 5, 8, header, len(whole) - 1):
        path.write_bytes(whole[:stop])
        with pytest.raises(StateError, match="damaged"):
            Context.load(path, context.model)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StateError, match="damaged"):
        Context.load(path, context.model)
    path.write_bytes(whole)
    assert Context.load(path, context.model).usage == context.usage


def test_a_state_of_another_model_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    model, path = tiny("llama"), tmp_path / "state"
    context = Context(model, tokenizer_of("abc"), policy="window:20")
    context.append(ids_of(30))
    context.save(path)

    def refused(match: str, *args: Any, **kwargs: Any) -> None:
        with pytest.raises(StateError, match=match):
            Context.load(path, *args, **kwargs)

    refused(r"hidden_size 32 \(here 40\)", tiny("llama", hidden_size=40, head_dim=8))
    refused("model_type 'llama'", tiny("qwen3"))
    refused(r"the policy window:20 \(here sinks:4,window=16\)", model, policy="sinks:4,window=16")
    refused("the tokenizer: the vocabulary", model, tokenizer_of("abd"))
    refused(r"the dtype float32 \(here bfloat16\)", tiny("llama").bfloat16())
    refused("rope", tiny("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0}))
    other = tiny("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[3, 2] += 1e-3
    refused("the model's weights", other)
    assert Context.load(path, model, policy="window:20").usage == context.usage
    assert Context.load(path, tiny("llama")).usage == context.usage  # the original weights again


def test_weights_changed_after_a_save_are_noticed(tmp_path: Path) -> None:
    model = tiny("llama")
    context = Context(model, policy="window:20")
    context.append(ids_of(5))
    context.save(tmp_path / "state")
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    with pytest.raises(StateError, match="weights"):
        Context.load(tmp_path / "state", model)


def test_a_failed_save_keeps_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_state(path, {"x": torch.arange(5)}, {"note": 1})

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        write_state(path, {"x": torch.arange(9)}, {"note": 2})
    monkeypatch.undo()
    tensors, facts = read_state(path)
    assert tensors["x"].tolist() == [0, 1, 2, 3, 4]
    assert facts == {"note": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_file_in_a_missing_folder_is_refused() -> None:
    with pytest.raises(StateError, match="could not be read"):
        read_state("/nowhere/at/all")
    with pytest.raises(StateError, match="could not be written"):
        write_state("/nowhere/at/all", {}, {})


def test_a_conversation_goes_on(tmp_path: Path) -> None:
    """After loading, the template closes an unfinished answer as it would have without a save."""
    model, tokenizer = tiny("llama"), tokenizer_of("abcdefgh")
    context = Context(model, tokenizer, policy="full")
    context.generate([{"role": "user", "content": "a b"}], max_new_tokens=3)
    context.save(tmp_path / "state")
    loaded = Context.load(tmp_path / "state", model, tokenizer)
    question = [{"role": "user", "content": "b a"}]
    assert loaded.generate(question, max_new_tokens=5) == context.generate(
        question, max_new_tokens=5
    )
    assert loaded.usage == context.usage


def test_a_note_is_kept_beside_the_state(tmp_path: Path) -> None:
    model, path = tiny("llama"), tmp_path / "state"
    context = Context(model, policy="window:20")
    context.save(path)
    assert Context.load(path, model).note == context.note == {}
    context.save(path, note={"turns": 2, "words": ("a", "\u00e9"), "system": None})
    expected = {"turns": 2, "words": ["a", "\u00e9"], "system": None}
    loaded = Context.load(path, model)
    assert loaded.note == context.note == expected
    loaded.fork().save(path)  # the note is kept although it is not given again
    assert Context.load(path, model).note == expected
    before = path.read_bytes()
    for wrong in ({"x": object()}, {"x": float("nan")}, {(1, 2): 3}, {"x": b"bytes"}):
        with pytest.raises(InputError, match="cannot be written as JSON"):
            context.save(path, note=wrong)
    assert path.read_bytes() == before
    assert context.note == expected


def test_a_loaded_context_knows_that_its_answer_is_unfinished(tmp_path: Path) -> None:
    model, tokenizer = tiny("llama"), tokenizer_of("abcdefgh")
    context = Context(model, tokenizer, policy="full")
    assert not context.unfinished
    context.generate([{"role": "user", "content": "a b"}], max_new_tokens=1)
    assert context.unfinished
    context.save(tmp_path / "state")
    assert Context.load(tmp_path / "state", model, tokenizer).unfinished
    context.append("a")
    assert not context.unfinished


def test_a_model_read_from_a_folder_is_the_same_model(tmp_path: Path) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path / "model")
    context = Context(tiny("llama"), policy="window:20")
    context.append(ids_of(9))
    context.save(tmp_path / "state")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert Context.load(tmp_path / "state", again).usage == context.usage


def test_a_truncated_answer_goes_on_without_a_prompt() -> None:
    """An answer in two pieces is the same, and is closed in the same way."""
    model, tokenizer = tiny("llama"), tokenizer_of("abcdefgh")
    question = [{"role": "user", "content": "abc"}]
    whole, parts = (Context(model, tokenizer, policy="full") for _ in range(2))
    text = whole.generate(question, max_new_tokens=9)
    first = parts.generate(question, max_new_tokens=4)
    assert parts.unfinished
    assert first + parts.generate(max_new_tokens=5) == text
    assert parts.unfinished == whole.unfinished
    for context in (whole, parts):
        context.append(question)
    assert parts.usage == whole.usage
    np.testing.assert_array_equal(parts.score([5, 6]), whole.score([5, 6]))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_is_as_large_as_the_tokens_in_it(policy: str, family: str, tmp_path: Path) -> None:
    """Empty slots are not saved: a policy of a hundred times the size makes no larger file."""
    name, _, rest = policy.partition(":")
    roomy = {"window:20": "window:2000", "sinks:3,window=17": "sinks:3,window=1997"}
    larger = roomy.get(policy, f"{name}:{rest}".replace(":20", ":2000").replace(":100", ":10000"))
    larger = larger.replace("global=90", "global=9000").replace("window=97", "window=9700")
    model, sizes = tiny(family), []
    for text in (policy, larger):
        context = Context(model, policy=text)
        context.append(ids_of(7))
        sizes.append(context.save(tmp_path / "state"))
        loaded = Context.load(tmp_path / "state", model)
        assert loaded.usage.kv_bytes <= context.usage.kv_bytes
        np.testing.assert_array_equal(loaded.score(ids_of(30)), context.score(ids_of(30)))
    assert sizes[1] <= sizes[0] + 2000
    assert sizes[1] < 60_000 + 40_000 * ("expected" in policy)
    context.reset()
    assert context.save(tmp_path / "state") <= sizes[1]
    assert Context.load(tmp_path / "state", model).append(ids_of(7)) == 7


def test_an_earlier_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(path, {}, {"format": "transom state 1"})
    with pytest.raises(StateError, match="'transom state 1', by another version"):
        read_state(path)
