"""Caches under inference mode, gradients, autocast, other default dtypes and devices."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast

from tests.helpers.models import VOCABULARY, chunked_logits, difference, distinct, tiny, tokens
from transom import BoundedCache, Context
from transom.attention import OptimizedAttention, attend, causal, documents, random_blocks, sliding
from transom.attention.huggingface import use_pattern
from transom.errors import CacheError
from transom.policies import parse

RECALL = "hierarchical:16,global=1000,recall=blocks,block=4,blocks=2"
POLICIES = [
    "full",
    "window:24",
    "sinks:4,window=20",
    "chunked:24,chunk=8",
    "snapkv:24",
    "heavy-hitters:24",
    "expected-attention:24",
    "keydiff:24,heads=adaptive",
    "sinks:4,window=72,kv=int8",
    "snapkv:96,kv=int4",
    "full:kv=int4",
    RECALL,
]
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": nullcontext,
}
SIZES = [40, 1, 30, 1, 1, 17]


def logits_in(modes: list[str], model: Any, cache: Any, ids: Tensor) -> Tensor:
    """Logits of a text in pieces, each in another mode."""
    outputs, start = [], 0
    for number, size in enumerate(SIZES):
        with MODES[modes[number % len(modes)]]():
            part = ids[:, start : start + size]
            outputs.append(model(part, past_key_values=cache).logits.detach().clone())
        start += size
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("family", ["llama", "lfm2", "gemma3"])
@pytest.mark.parametrize("policy", ["full", "sinks:4,window=20", "snapkv:24"])
@pytest.mark.parametrize(
    "modes", [["inference", "grad"], ["no_grad", "inference", "grad"]], ids=str
)
def test_each_pass_may_be_in_another_mode(family: str, policy: str, modes: list[str]) -> None:
    model, ids = tiny(family), distinct(1, 90)
    expected = chunked_logits(model, ids, BoundedCache(parse(policy), config=model.config), SIZES)
    for order in (modes, modes[::-1]):
        cache = BoundedCache(parse(policy), config=model.config)
        assert difference(logits_in(order, model, cache, ids), expected) < 1e-4


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_kept_in_inference_mode_can_be_used_outside(policy: str) -> None:
    model, ids = tiny("llama"), distinct(2, 90)
    expected = chunked_logits(model, ids, BoundedCache(parse(policy), config=model.config), SIZES)
    with torch.inference_mode():
        cache = BoundedCache(parse(policy), config=model.config)
        chunked_logits(model, ids, cache, [50])
        twin, saved = cache.fork(), BoundedCache(parse(policy), config=model.config)
        state = {name: tensor.clone() for name, tensor in cache.state_dict().items()}
        saved.load_state_dict(state, torch.device("cpu"))
        cache.reorder_cache(torch.tensor([0, 1]))
    for each in (cache, twin, saved):
        got = chunked_logits(model, ids, each, [1, 20, 19])
        # In other pieces than above, so not to the last bit; int4 makes that worse.
        assert difference(got, expected[:, 50:]) < (2 if "kv=" in policy else 1e-3)
        each.reset()
        got = chunked_logits(model, ids, each, SIZES)
        assert difference(got, expected) < 1e-4


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_made_in_inference_mode_can_be_trained_with(policy: str, again: Any) -> None:
    model, ids = tiny("llama"), distinct(2, 60)
    cache = BoundedCache(parse(policy), config=model.config)
    chunked_logits(model, ids, cache, [29, 1])
    with torch.inference_mode():
        twin = again(cache)
    got = model(ids[:, 30:], past_key_values=twin).logits
    assert got.requires_grad
    assert torch.equal(got, model(ids[:, 30:], past_key_values=cache).logits)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("policy", ["sinks:4,window=20", "snapkv:24", "hierarchical:32,global=99"])
def test_float64_is_not_taken_for_less(policy: str, implementation: str) -> None:
    ids, found = distinct(1, 90), []
    for dtype in (torch.float32, torch.float64):
        model = tiny("llama").to(dtype)
        model.set_attn_implementation(implementation)
        cache = BoundedCache(parse(policy), config=model.config)
        found.append(chunked_logits(model, ids, cache, SIZES))
    assert difference(*found) < 1e-3


@pytest.mark.parametrize("text", ["sinks:4,window=20", "snapkv:24,kv=int8,recent=12", RECALL])
def test_contexts_go_on_in_another_mode(text: str) -> None:
    model, ids = tiny("llama"), tokens(120).tolist()
    expected = Context(model, policy=text).score(ids)
    context = Context(model, policy=text)
    with torch.inference_mode():
        found = [context.score(ids[:50])]
    found.append(context.score(ids[50:51]))
    with torch.inference_mode():
        found += [context.fork().score(ids[51:])]
    assert torch.cat([torch.from_numpy(x) for x in found])[1:].sub(
        torch.from_numpy(expected)[1:]
    ).abs().max() < (0.5 if "int8" in text else 1e-3)
    context.reset()
    context.append(ids)


@pytest.mark.parametrize(
    "pattern", [causal() & sliding(20), causal() & documents([30, 60]), random_blocks(1, block=8)]
)
def test_patterns_first_met_in_inference_mode_can_be_trained_under(pattern: Any) -> None:
    q, k, v = (torch.randn(1, 2, 90, 8) for _ in range(3))
    with torch.inference_mode():
        expected = attend(q, k, v, pattern, kernel="block_sparse")
    q.requires_grad_()
    got = attend(q, k, v, pattern, kernel="block_sparse")
    got.sum().backward()
    assert torch.equal(got, expected)
    assert q.grad is not None


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(before)


DEFAULTS = {
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "meta": lambda: default_device("meta"),  # as any device that the model is not on
}


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_defaults_change_nothing(policy: str, default: str) -> None:
    model, ids = tiny("llama"), distinct(2, 90)
    mask = torch.ones(2, 90, dtype=torch.long)
    mask[1, :5] = 0
    real = mask.bool()

    def logits() -> Tensor:
        cache = BoundedCache(parse(policy), config=model.config)
        return chunked_logits(model, ids, cache, SIZES, mask)[real]

    expected = logits()
    with DEFAULTS[default]():
        got = logits()
    assert torch.equal(got, expected)


def words() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{number}": number for number in range(VOCABULARY)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w2")


@pytest.mark.parametrize("default", DEFAULTS)
def test_defaults_change_nothing_in_contexts_and_modules(default: str) -> None:
    model, ids = tiny("llama"), tokens(100).tolist()
    context = Context(model, words(), policy="sinks:4,window=20", chunk=100)
    module = OptimizedAttention(16, 4, 2, pattern="sinks:4,window=20", rotary=True)
    x = torch.randn(1, 50, 16)
    pattern = sliding(16) | random_blocks(1, block=8)
    expected = context.score(ids), module(x), pattern.mask(50)
    text = context.generate(max_new_tokens=5)
    context.reset()
    with DEFAULTS[default]():
        got = context.score(ids[:1]), context.score(ids[1:])
        assert {x.dtype for x in got} == {expected[0].dtype}
        assert abs(got[1] - expected[0][1:]).max() < 1e-3  # cut otherwise
        reply = context.generate(max_new_tokens=5)
        assert torch.equal(module(x), expected[1])
        assert torch.equal(pattern.mask(50), expected[2])
    assert reply == text


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("policy", [x for x in POLICIES if "int4" not in x])
def test_autocast_is_as_close_as_bfloat16_gets(family: str, policy: str) -> None:
    """Projections come in bfloat16 then, and what was turned or normed in float32."""
    model, ids = tiny(family), distinct(1, 90)
    cache = BoundedCache(parse(policy), config=model.config)
    exact = chunked_logits(model, ids[:, :20], cache, [12, 1, 7])
    cache.reset()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = chunked_logits(model, ids[:, :20], DynamicCache(config=model.config), [12, 1, 7])
        ours = chunked_logits(
            model, ids[:, :20], BoundedCache(parse(policy), config=model.config), [12, 1, 7]
        )
        chunked_logits(model, ids, BoundedCache(parse(policy), config=model.config), SIZES)
    allowed = 1.5 * difference(theirs.float(), exact) + (0.5 if "int8" in policy else 0)
    assert difference(ours.float(), exact) < allowed


@pytest.mark.parametrize("policy", POLICIES)
def test_autocast_may_come_and_go(policy: str) -> None:
    """What was kept in bfloat16 is kept in float32 from where that comes."""
    model, ids = tiny("llama"), distinct(1, 90)
    cache = BoundedCache(parse(policy), config=model.config)
    start = 0
    for number, size in enumerate(SIZES):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=number % 2 == 0):
            out = model(ids[:, start : start + size], past_key_values=cache).logits
        assert bool(out.isfinite().all())
        start += size
    states = [x for x in cache.layers[0].tensors.items() if x[0].startswith(("keys", "values"))]
    wide = [x for name, x in states if not name.endswith((".codes", ".scale", ".offset"))]
    assert {x.dtype for x in wide} == {torch.float32}


def test_patterns_under_autocast() -> None:
    model, ids = tiny("llama"), tokens(1, 300)
    with use_pattern(model, "sinks:4,window=60"), torch.autocast("cpu", dtype=torch.bfloat16):
        model(ids).logits.sum().backward()
    module = OptimizedAttention(32, 4, 2, pattern="window:60", rotary=True)
    x = torch.randn(1, 300, 32)
    expected = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert difference(module(x).float(), expected) < 0.05
        q, v = torch.randn(1, 2, 90, 8), torch.randn(1, 2, 90, 8).bfloat16()
        assert attend(q, q, v, sliding(9)).dtype == torch.bfloat16
        half = attend.explain(q.bfloat16(), q.bfloat16(), v, sliding(9))
        assert attend.explain(q, q, v, sliding(9)).kernel == half.kernel


def test_a_model_in_training_may_leave_the_cache_out_only_by_name() -> None:
    """As its layers do under gradient checkpointing, with a warning that is easily missed."""
    model, ids = tiny("llama").train(), tokens(1, 40)
    model.gradient_checkpointing_enable()
    for policy in ("sinks:4,window=72", "snapkv:24", RECALL):
        with pytest.raises(CacheError, match="gradient_checkpointing_disable"):
            model(ids, past_key_values=BoundedCache(parse(policy), config=model.config))
    with use_pattern(model, "window:20"):
        model(ids).logits.sum().backward()
