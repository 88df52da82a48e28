"""`torch.compile(model)` with a bounded cache gives what the model gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tests.helpers.models import chunked_logits, difference, left_padded, tiny, tokens
from transom import Context
from transom.attention.huggingface import use_pattern
from transom.kv import BoundedCache
from transom.policies import parse

POLICIES = [
    "full",
    "window:12",
    "sinks:3,window=9",
    "window:12,kv=int8",
    "snapkv:12",
    "hierarchical:8,global=100,recall=blocks,block=4,blocks=3,chunk=2",
]
SIZES = [20, 1, 1, 1, 7]
IDS = tokens(2, sum(SIZES))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("llama", num_hidden_layers=2)


@pytest.fixture(scope="module")
def compiled(model: Any) -> Iterator[Any]:
    """The same weights; the graphs hold no policy, so that one compilation serves all tests."""
    yield torch.compile(model, backend="eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("text", POLICIES)
def test_the_logits_are_those_of_the_model(model: Any, compiled: Any, text: str) -> None:
    want = chunked_logits(model, IDS, BoundedCache(parse(text), config=model.config), SIZES)
    got = chunked_logits(compiled, IDS, BoundedCache(parse(text), config=model.config), SIZES)
    assert difference(got, want) < 1e-4


def test_a_padded_batch(model: Any, compiled: Any) -> None:
    mask = left_padded([30, 17], sum(SIZES))
    caches = [BoundedCache(parse("sinks:3,window=9"), config=model.config) for _ in range(2)]
    want = chunked_logits(model, IDS, caches[0], SIZES, mask)
    got = chunked_logits(compiled, IDS, caches[1], SIZES, mask)
    assert difference(got, want) < 1e-4


@pytest.mark.parametrize("bounded", [False, True])
def test_a_pattern(model: Any, compiled: Any, bounded: bool) -> None:
    def cache() -> Any:
        config = model.config
        return (
            BoundedCache(parse("window:12"), config=config)
            if bounded
            else DynamicCache(config=config)
        )

    with use_pattern(model, "sliding(9) | sinks(2)"):
        want = chunked_logits(model, IDS, cache(), SIZES)
        got = chunked_logits(compiled, IDS, cache(), SIZES)
    assert difference(got, want) < 1e-4


def test_a_context_and_generate_take_a_compiled_model(model: Any, compiled: Any) -> None:
    ids = IDS[0].tolist()
    want, got = (Context(one, policy="sinks:3,window=9").score(ids) for one in (model, compiled))
    assert abs(want[1:] - got[1:]).max() < 1e-4
    words = []
    for one in (model, compiled):
        cache = BoundedCache(parse("sinks:3,window=9"), config=model.config)
        words.append(one.generate(IDS[:1], past_key_values=cache, max_new_tokens=9))
    assert torch.equal(*words)


def test_one_graph_for_all_is_refused_with_the_reason(model: Any) -> None:
    torch._dynamo.reset()  # otherwise what has been compiled in pieces counts
    whole = torch.compile(model, backend="eager", fullgraph=True)
    cache = BoundedCache(parse("window:12"), config=model.config)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile without fullgraph=True"):
        whole(IDS, past_key_values=cache)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_other_backends(model: Any, backend: str) -> None:
    torch._dynamo.reset()
    other = torch.compile(model, backend=backend)
    for text in ("sinks:3,window=9", "snapkv:12"):
        want = chunked_logits(model, IDS, BoundedCache(parse(text), config=model.config), SIZES)
        got = chunked_logits(other, IDS, BoundedCache(parse(text), config=model.config), SIZES)
        assert difference(got, want) < 1e-4
    torch._dynamo.reset()
