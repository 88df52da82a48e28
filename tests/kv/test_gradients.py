"""Gradients through bounded caches: those of one dense pass, or none at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from tests.helpers.models import dense_reference, distinct, tiny
from transom import BoundedCache
from transom.attention import OptimizedAttention
from transom.errors import CacheError
from transom.policies import parse

LENGTH = 80
CUTS = [[LENGTH], [1] * LENGTH, [37, 1, 1, 41], [10] * 8]
BY_POSITION = ["full", "window:20", "sinks:4,window=20", "sinks:4,window=90", "chunked:24,chunk=8"]
BY_SCORE = ["snapkv:24", "heavy-hitters:24", "keydiff:24,heads=adaptive", "expected-attention:24"]
RECALL = "hierarchical:16,global=1000,recall=blocks,block=4,blocks=2"


def close(got: Tensor, expected: Tensor) -> bool:
    return float((got - expected).norm() / expected.norm()) < 1e-5


def embedded(model: Any, ids: Tensor) -> Tensor:
    x: Tensor = model.get_input_embeddings()(ids).detach().double().requires_grad_()
    return x


def gradient(
    model: Any, ids: Tensor, cache: Any, cuts: list[int], mask: Tensor | None = None
) -> Tensor:
    """Of some numbers made of all logits, with respect to the embeddings of all tokens."""
    x = embedded(model, ids)
    outputs, start = [], 0
    for size in cuts:
        stop = start + size
        own = None if mask is None else mask[:, :stop]
        given = {"past_key_values": cache, "attention_mask": own, "use_cache": cache is not None}
        outputs.append(model(inputs_embeds=x[:, start:stop], **given).logits)
        start = stop
    return torch.autograd.grad(weighed(torch.cat(outputs, 1), mask), x)[0]


def weighed(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).to(logits)
    if mask is not None:
        weights = weights * mask[..., None]
    return (logits * weights).sum()


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("text", BY_POSITION)
def test_by_position_they_are_those_of_the_reference(text: str, padded: bool) -> None:
    model, ids, policy = tiny("llama").double(), distinct(2, LENGTH), parse(text)
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :17] = 0
    x = embedded(model, ids)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    given = {"attention_mask": mask, "position_ids": positions} if padded else {}
    with dense_reference(model, policy):
        logits = model(inputs_embeds=x, use_cache=False, **given).logits
    (expected,) = torch.autograd.grad(weighed(logits, mask if padded else None), x)
    for cuts in CUTS:
        cache = BoundedCache(policy, config=model.config)
        got = gradient(model, ids, cache, cuts, mask if padded else None)
        assert close(got, expected), cuts


@pytest.mark.parametrize("text", BY_SCORE)
def test_by_score_they_do_not_depend_on_the_cutting(text: str) -> None:
    model, ids = tiny("llama").double(), distinct(2, LENGTH)
    found = [
        gradient(model, ids, BoundedCache(parse(text), config=model.config), cuts) for cuts in CUTS
    ]
    assert all(close(one, found[0]) for one in found[1:])


@pytest.mark.parametrize("text", [*BY_POSITION, "snapkv:1024", "window:1000,kv=int8"])
def test_long_prompts_that_fit_are_as_in_plain_use(text: str) -> None:
    """In blocks of queries, whose pinned keys meet them apart."""
    model, ids = tiny("llama", max_position_embeddings=512).double(), distinct(1, 90).repeat(1, 4)
    policy = parse(text.replace("20", "1020").replace("24,", "1024,").replace("=90", "=1090"))
    expected = gradient(model, ids, DynamicCache(config=model.config), [360])
    got = gradient(model, ids, BoundedCache(policy, config=model.config), [360])
    assert close(got, expected)


@pytest.mark.parametrize("text", ["window:90,kv=int8", "full:kv=int4"])
@pytest.mark.parametrize("fixed", [0, 5])
def test_what_is_not_rounded_yet_has_them(text: str, fixed: int) -> None:
    """Also after a prompt that is not trained."""
    model, ids = tiny("llama"), distinct(2, 30)
    x = embedded(model, ids).float().detach().requires_grad_()
    found = []
    for cache in (DynamicCache(config=model.config), BoundedCache(text, config=model.config)):
        if fixed:
            with torch.no_grad():
                model(ids[:, :fixed], past_key_values=cache)
        outputs = [
            model(inputs_embeds=part, past_key_values=cache).logits
            for part in x[:, fixed:].split([13, 1, 9, 7 - fixed], 1)
        ]
        found.append(torch.autograd.grad(weighed(torch.cat(outputs, 1)), x)[0])
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 1e-4


def test_queries_alone_may_be_trained() -> None:
    """Then the keys are in no graph, yet the gradient of the queries needs them as they were."""
    model, ids = tiny("llama"), distinct(1, 40)
    model.requires_grad_(False)
    weight = model.model.layers[0].self_attn.q_proj.weight.requires_grad_()
    found = []
    for cuts in ([40], [20, 1, 19]):
        cache, outputs, start = BoundedCache(parse("window:64"), config=model.config), [], 0
        for size in cuts:
            part = ids[:, start : start + size]
            outputs.append(model(part, past_key_values=cache).logits)
            start += size
        (grad,) = torch.autograd.grad(weighed(torch.cat(outputs, 1)), weight)
        found.append(grad)
    assert close(found[1], found[0])


@pytest.mark.parametrize("text", ["window:20", "sinks:4,window=20", "snapkv:24"])
def test_detached_they_end_at_the_pass_before(text: str) -> None:
    model, ids = tiny("llama").double(), distinct(1, LENGTH)
    x, cache = embedded(model, ids), BoundedCache(parse(text), config=model.config)
    for start in range(0, LENGTH, 20):  # truncated backpropagation through time
        logits = model(inputs_embeds=x[:, start : start + 20], past_key_values=cache).logits
        (grad,) = torch.autograd.grad(weighed(logits), x)
        assert not grad[:, :start].any()
        assert grad[:, start : start + 20].any()
        cache.detach()
    assert not any(tensor.requires_grad for tensor in cache.state_dict().values())


def test_going_on_without_gradients_leaves_those_of_before_alone() -> None:
    model, ids = tiny("llama").double(), distinct(1, 40)
    expected = gradient(model, ids[:, :20], DynamicCache(config=model.config), [20])
    x, cache = embedded(model, ids[:, :20]), BoundedCache(parse("window:64"), config=model.config)
    loss = weighed(model(inputs_embeds=x, past_key_values=cache).logits)
    twin = cache.fork()
    for each, mode in ((cache, torch.no_grad), (twin, torch.inference_mode)):
        with mode():
            model(ids[:, 20:], past_key_values=each)
            each.reset()
    assert close(torch.autograd.grad(loss, x)[0], expected)


@pytest.mark.parametrize("text", [RECALL, "window:72,kv=int8", "snapkv:80,kv=int4", "full:kv=int8"])
def test_where_there_are_none_the_backward_pass_is_refused(text: str) -> None:
    model, ids = tiny("llama"), distinct(1, LENGTH)
    x, cache = embedded(model, ids).float(), BoundedCache(parse(text), config=model.config)
    for start in range(0, LENGTH, 10):
        logits = model(inputs_embeds=x[:, start : start + 10], past_key_values=cache).logits
    with pytest.raises(CacheError, match=r"gradient.*(kv=auto|no_grad)"):
        weighed(logits).backward()


def test_a_pass_that_is_computed_again_is_not_fed_again() -> None:
    model, ids = tiny("llama"), distinct(1, 30)
    cache = BoundedCache(parse("window:20"), config=model.config)
    x = embedded(model, ids).float()

    def run(x: Tensor) -> Tensor:
        logits: Tensor = model(inputs_embeds=x, past_key_values=cache).logits
        return logits

    loss = checkpoint(run, x, use_reentrant=False).sum()
    with pytest.raises(CacheError, match="fed to the cache twice"):
        loss.backward()


def test_attention_modules_share_a_cache_in_training() -> None:
    config, policy = tiny("llama").config, parse("sinks:4,window=20")
    layers = [OptimizedAttention(32, 4, 2, rotary=True, layer_idx=n).double() for n in range(3)]
    x = torch.randn(1, 70, 32, dtype=torch.float64, requires_grad=True)
    found = []
    for cuts in ([70], [1] * 70, [33, 1, 36]):
        cache, outputs = BoundedCache(policy, config=config), []
        for part in x.split(cuts, 1):
            for layer in layers:
                part = layer(part, cache=cache)
            outputs.append(part)
        found.append(torch.autograd.grad(torch.cat(outputs, 1).square().sum(), x)[0])
    assert all(close(one, found[0]) for one in found[1:])
