"""Copies of caches, of configs and of both: by pickle, by torch.save, by deepcopy."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from tests.helpers.models import chunked_logits, distinct, tiny
from transom import BoundedCache, Context
from transom.attention import causal, documents
from transom.attention.huggingface import select_attention, use_pattern
from transom.errors import CacheError, PolicyError
from transom.policies import parse

RECALL = "hierarchical:16,global=1000,recall=blocks,block=4,blocks=2"
POLICIES = [
    "full",
    "sinks:4,window=20",
    "snapkv:24",
    "expected-attention:24",
    "keydiff:24,heads=adaptive",
    "sinks:4,window=72,kv=int8",
    RECALL,
]


def pickled(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


def saved(x: Any) -> Any:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [pickled, saved, copy.deepcopy])
@pytest.mark.parametrize("family", ["llama", "lfm2", "gemma3"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_copy_goes_on_alike_and_by_itself(family: str, policy: str, again: Any) -> None:
    model, ids, other = tiny(family), distinct(2, 80), distinct(2, 80, seed=9)
    cache = BoundedCache(parse(policy), config=model.config)
    model(ids[:, :40], past_key_values=cache)  # with gradients, which a copy does not have
    twin = again(cache)
    chunked_logits(model, other, again(cache), [20])
    got = chunked_logits(model, ids, twin, [1, 39])
    assert torch.equal(got, chunked_logits(model, ids, cache, [1, 39]))


def test_an_empty_cache_can_be_copied() -> None:
    model, ids = tiny("llama"), distinct(1, 30)
    cache = pickled(BoundedCache(parse("snapkv:20KiB"), config=model.config))
    fresh = BoundedCache(parse("snapkv:20KiB"), config=model.config)
    got = chunked_logits(model, ids, cache, [30])
    assert torch.equal(got, chunked_logits(model, ids, fresh, [30]))


@pytest.mark.parametrize("policy", ["sinks:4,window=20", RECALL])
def test_forks_that_are_copied_together_share_nothing(policy: str) -> None:
    model, ids, other = tiny("llama"), distinct(1, 80), distinct(1, 80, seed=9)
    cache = BoundedCache(parse(policy), config=model.config)
    chunked_logits(model, ids, cache, [40])
    expected = chunked_logits(model, ids, cache.fork(), [40])
    for one, two in (copy.deepcopy((cache, cache.fork())), pickled((cache, cache.fork()))):
        chunked_logits(model, other, two, [40])
        assert torch.equal(chunked_logits(model, ids, one, [40]), expected)


def test_cold_blocks_go_to_a_file_again(tmp_path: Path) -> None:
    model, ids = tiny("llama"), distinct(1, 80)
    cache = BoundedCache(parse(RECALL), config=model.config, cold=tmp_path / "cold")
    chunked_logits(model, ids, cache, [60])
    twin = pickled(cache)
    assert twin.layers[0].store.folder == tmp_path / "cold"
    assert twin.cold_nbytes == cache.cold_nbytes
    got = chunked_logits(model, ids, twin, [20])
    assert torch.equal(got, chunked_logits(model, ids, cache, [20]))


def test_in_the_middle_of_a_pass_there_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama"), distinct(1, 20)
    cache = BoundedCache(parse("window:24"), config=model.config)

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.layers[1], "update", fails)
    with pytest.raises(KeyboardInterrupt):
        model(ids, past_key_values=cache)
    for again in (pickle.dumps, copy.deepcopy):
        with pytest.raises(CacheError, match="stopped half-way"):
            again(cache)


@pytest.mark.parametrize("again", [pickled, saved, copy.deepcopy])
def test_model_and_cache_can_be_copied_together(again: Any) -> None:
    model, ids = tiny("llama"), distinct(1, 60)
    cache = BoundedCache(parse("sinks:4,window=20"), config=model.config)
    chunked_logits(model, ids, cache, [30])
    twin, own = again((model, cache))
    got = chunked_logits(twin, ids, own, [30])
    assert torch.equal(got, chunked_logits(model, ids, cache, [30]))
    context = Context(model, policy="sinks:4,window=20")
    context.append(ids[0].tolist())
    assert (again(context).score([5, 6, 7]) == context.score([5, 6, 7])).all()


def test_a_copy_of_a_config_has_the_attention_from_before(tmp_path: Path) -> None:
    for base in ("sdpa", "eager"):
        model = tiny("llama")
        model.set_attn_implementation(base)
        BoundedCache(parse("window:20"), config=model.config)
        assert model.config._attn_implementation == f"transom|{base}"
        with use_pattern(model, "window:20"):
            inside = copy.deepcopy(model)
        model.save_pretrained(tmp_path)
        copies = [
            copy.deepcopy(model.config),
            pickled(model.config),
            type(model.config).from_dict(model.config.to_dict()),
            copy.deepcopy(model).config,
            pickled(model).config,
            inside.config,
            AutoModelForCausalLM.from_config(copy.deepcopy(model.config)).config,
            AutoModelForCausalLM.from_pretrained(tmp_path).config,
        ]
        names = {config._attn_implementation for config in copies}
        assert names <= {base, "sdpa", None}, names
        assert type(copies[0]._attn_implementation) is str


def test_another_process_needs_nothing_from_here_for_a_model(tmp_path: Path) -> None:
    model, ids = tiny("llama"), distinct(1, 10)
    cache = BoundedCache(parse("window:20"), config=model.config)
    with torch.no_grad():
        expected = model(ids).logits
    chunked_logits(model, ids, cache, [10])
    torch.save({"model": model, "ids": ids, "expected": expected}, tmp_path / "model")
    torch.save({"model": model, "cache": cache}, tmp_path / "both")
    program = """
import sys, torch
from pathlib import Path
folder = Path(sys.argv[1])
held = torch.load(folder / "model", weights_only=False)
assert "transom" not in sys.modules
with torch.no_grad():
    assert torch.equal(held["model"](held["ids"]).logits, held["expected"])
    both = torch.load(folder / "both", weights_only=False)
    both["model"](held["ids"], past_key_values=both["cache"])
assert both["cache"].seen == 20
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)


def test_a_cache_without_its_model_says_what_to_do() -> None:
    model, ids = tiny("llama"), distinct(1, 40)
    cache = BoundedCache(parse("window:20"), config=model.config)
    chunked_logits(model, ids, cache, [20])
    other = copy.deepcopy(model)
    with pytest.raises(CacheError, match=r"select_attention\(model.config\)"):
        other(ids[:, 20:], past_key_values=cache.fork())
    select_attention(other.config)
    got = chunked_logits(other, ids, cache.fork(), [20])
    assert torch.equal(got, chunked_logits(model, ids, cache, [20]))


def test_patterns_leave_nothing_behind() -> None:
    """Every batch of documents has a pattern of its own."""
    model, ids = tiny("llama"), distinct(2, 40)

    def step(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randint(0, 5, (2, 40), generator=generator).sort(dim=1).values
        with use_pattern(model, causal() & documents(numbers)), torch.no_grad():
            model(ids)
            with use_pattern(model, "window:10"):
                model(ids)

    step(0)
    names = len(AttentionInterface())
    for seed in range(1, 20):
        step(seed)
    assert len(AttentionInterface()) == names


def bounded(dtype: torch.dtype, cast: torch.dtype, policy: str) -> tuple[Any, BoundedCache]:
    model = tiny("llama", dtype=str(dtype).removeprefix("torch.")).to(cast)
    return model, BoundedCache(parse(policy), config=model.config)


@pytest.mark.parametrize("cast", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("loaded", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "policy",
    ["snapkv:40KiB", "keydiff:40KiB,layers=pyramid", "tova:40KiB,kv=int8", "heavy-hitters:40KiB"],
)
def test_sizes_in_bytes_go_by_what_is_stored(
    policy: str, loaded: torch.dtype, cast: torch.dtype
) -> None:
    model, cache = bounded(loaded, cast, policy)
    chunked_logits(model, distinct(1, 90).repeat(1, 5), cache, [200, 1, 249])
    assert 0.9 * 40 * 2**10 < cache.nbytes <= 40 * 2**10
    used = cache.policy
    cache.reset()
    chunked_logits(model, distinct(1, 90), cache, [90])
    assert cache.policy == used == parse(str(used))


def test_cold_bytes_go_by_what_is_stored() -> None:
    policy = "hierarchical:16,global=32KiB,recall=blocks,block=4,blocks=2"
    blocks = []
    for cast in (torch.float32, torch.float64):
        model, cache = bounded(torch.float32, cast, policy)
        chunked_logits(model, distinct(1, 90), cache, [90])
        blocks.append(cache.policy.global_blocks)
    assert blocks[1] < blocks[0]


def test_autocast_is_half_precision_to_a_size_in_bytes() -> None:
    model, cache = bounded(torch.float32, torch.float32, "snapkv:40KiB")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunked_logits(model, distinct(1, 90).repeat(1, 5), cache, [200, 250])
    assert 0.9 * 40 * 2**10 < cache.nbytes <= 40 * 2**10
    with pytest.raises(CacheError, match="expected one dtype and size"):
        model(distinct(1, 5), past_key_values=cache)


def test_a_block_that_does_not_fit_as_it_is_stored_is_refused() -> None:
    policy = "hierarchical:16,global=2KiB,recall=blocks,block=4,blocks=1"
    model, cache = bounded(torch.float16, torch.float64, policy)
    with pytest.raises(PolicyError, match="expected more"):
        model(distinct(1, 30), past_key_values=cache)
