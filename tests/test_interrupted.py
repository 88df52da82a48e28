"""A call that raises half-way leaves the context as it was, or makes it refuse further calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.letters import Letters
from tests.helpers.models import ids_of, tiny, tokens
from tests.helpers.policy_examples import stored_in_every_way
from transom import Context
from transom.context import scoring
from transom.errors import CacheError, InputError
from transom.kv import BoundedCache
from transom.kv.cache_layer import CacheLayer
from transom.policies import parse
from transom.sampling import Draw

TRACED = ("heavy", "expected", "pyramid")  # every token affects the scores of others
MORE = ids_of(20, seed=2)
EVENTS = [MemoryError, KeyboardInterrupt]


@contextmanager
def raising(owner: Any, name: str, event: type[BaseException], at: int) -> Iterator[None]:
    """While open, the `at`-th call of a method does its work and then raises."""
    before, calls = getattr(owner, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = before(*args, **kwargs)
        calls += 1
        if calls == at:
            raise event("on purpose")
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, failing)
        yield
    assert calls >= at


def places(context: Context) -> dict[str, tuple[Any, str]]:
    """Methods that may fail, from the embeddings to the losses."""
    model = context.model
    return {
        "embeddings": (model.model.embed_tokens, "forward"),
        "first layer": (model.model.layers[0], "forward"),
        "middle layer": (model.model.layers[1].mlp, "forward"),
        "storage": (context.cache, "begin"),
        "output layer": (model.lm_head, "forward"),
        "model": (model, "forward"),
        "losses": (scoring, "losses"),
    }


@pytest.mark.parametrize("policy", stored_in_every_way())
@pytest.mark.parametrize("place", ["middle layer", "output layer", "losses"])
def test_all_or_nothing(policy: str, place: str) -> None:
    """A short context is as it was; a long one may also refuse to go on."""
    model, event = tiny("llama"), EVENTS[len(policy + place) % 2]
    for length, more, chunk in ((8, 4, 512), (70, 20, 8)):
        context = Context(model, Letters(), policy, chunk=chunk)
        context.append(ids_of(length))
        twin = context.fork()
        call = context.score if place == "losses" else context.append
        at = 2 if more > chunk else 1
        with raising(*places(context)[place], event, at), pytest.raises(event):
            call(ids_of(more, seed=1))
        if context._runner.halted:
            assert length > 8 or any(name in policy for name in TRACED)
            refuses(context)
            context.reset()
            context.append(ids_of(length))
        np.testing.assert_array_equal(context.score(MORE), twin.score(MORE))
        assert context.usage == twin.usage


def refuses(context: Context) -> None:
    for call in (context.fork, context.generate, lambda: context.append([4])):
        with pytest.raises(CacheError, match=r"stopped half-way.*fork or saved state"):
            call()


@pytest.mark.parametrize("family", ["gemma3", "lfm2"])
@pytest.mark.parametrize("place", ["first layer", "middle layer", "output layer"])
def test_the_models_own_layers_are_not_left_one_step_ahead(family: str, place: str) -> None:
    model = tiny(family)
    context = Context(model, policy="window:20")
    context.append(ids_of(9))
    owner = {"output layer": model.lm_head}.get(place, model.model.layers[place != "first layer"])
    with raising(owner, "forward", MemoryError, 1), pytest.raises(MemoryError):
        context.append([5, 6])
    with pytest.raises(CacheError, match=r"Call reset\(\)"):
        context.append([5, 6])


def test_an_error_before_the_first_layer_changes_nothing() -> None:
    for family in ("llama", "gemma3"):
        context = Context(tiny(family), policy="sinks:3,window=9")
        context.append(ids_of(40))
        twin = context.fork()
        with (
            raising(context.model.model.embed_tokens, "forward", MemoryError, 1),
            pytest.raises(MemoryError),
        ):
            context.append([5, 6])
        np.testing.assert_array_equal(context.score([7, 8]), twin.score([7, 8]))


def test_an_interrupt_while_storing_under_a_full_ring_is_noticed() -> None:
    """The interrupt comes between two writes, when a newer token has replaced an older one."""
    context = Context(tiny("llama"), policy="window:20")
    context.append(ids_of(40))
    layer = context.cache.layers[0]
    with raising(layer, "_write", KeyboardInterrupt, 1), pytest.raises(KeyboardInterrupt):
        context.append([5])
    with pytest.raises(CacheError, match="half-way"):
        context.append([5])
    with pytest.raises(CacheError, match="half-way"):
        context.cache.fork()


def test_an_interrupt_during_a_rebase_is_noticed() -> None:
    context = Context(tiny("llama"), policy="sinks:3,window=29", chunk=700)
    context.append(tokens(8100))
    layer = context.cache.layers[1]
    with raising(layer, "rebase", KeyboardInterrupt, 1), pytest.raises(KeyboardInterrupt):
        context.append(tokens(200))
    with pytest.raises(CacheError, match="half-way"):
        context.append([5])


@pytest.mark.parametrize("call", [Context.reset, lambda context: context.trim_to(4)])
def test_an_interrupt_during_reset_or_trim_is_noticed(call: Callable[[Context], None]) -> None:
    context = Context(tiny("llama"), policy="full")
    context.append(ids_of(10))
    name = "reset" if call is Context.reset else "crop"
    with raising(context.cache, name, KeyboardInterrupt, 1), pytest.raises(KeyboardInterrupt):
        call(context)
    with pytest.raises(CacheError, match="half-way"):
        context.append([5])
    context.reset()
    assert context.append([5]) == context.usage.seen == 1


def test_a_fork_does_not_use_an_interrupted_copy() -> None:
    context = Context(tiny("llama"), policy="window:20")
    context.append(ids_of(30))
    twin, reference = context.fork(), context.fork()
    layer = twin.cache.layers[0]

    def interrupted(tensor: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer.own()
    twin.append(ids_of(5, seed=3))
    np.testing.assert_array_equal(context.score([5, 6]), reference.score([5, 6]))


def test_a_stream_that_is_abandoned_is_a_shorter_answer() -> None:
    model = tiny("llama")
    context, whole = (Context(model, Letters(), "sinks:3,window=9") for _ in range(2))
    stream = context.generate("hello there", max_new_tokens=9, stream=True)
    next(stream)
    fed = context.usage.seen - 12
    stream.close()
    whole.generate("hello there", max_new_tokens=fed)
    np.testing.assert_array_equal(context.score([5, 6]), whole.score([5, 6]))


@pytest.mark.parametrize("name", ["decode", "__call__"])
def test_a_sampler_or_tokenizer_that_raises_harms_nothing(name: str) -> None:
    model = tiny("llama")
    context, twin = (Context(model, Letters(), "sinks:3,window=9") for _ in range(2))
    owner = Letters if name == "decode" else Draw
    with raising(owner, name, MemoryError, 3), pytest.raises(MemoryError):
        context.generate("hello there", max_new_tokens=9)
    twin.append("hello there")
    twin.generate(max_new_tokens=context.usage.seen - twin.usage.seen)
    assert twin.usage == context.usage
    np.testing.assert_array_equal(context.score([5, 6]), twin.score([5, 6]))


def test_settings_are_refused_before_the_prompt_is_fed() -> None:
    context = Context(tiny("llama"), Letters(), "window:9")
    wrong: list[dict[str, Any]] = [
        {"temperature": 1.0, "top_p": 7.0},
        {"temperature": 1.0, "top_k": -1},
        {"repetition_penalty": -2.0},
        {"max_new_tokens": -1},
        {"max_new_tokens": 1.5},
        {"max_new_tokens": "9"},
    ]
    for settings in wrong:
        with pytest.raises(InputError):
            context.generate("hello", **settings)
    assert context.usage.seen == 0


def test_feeding_a_context_in_the_middle_of_a_stream_is_noticed() -> None:
    context = Context(tiny("llama"), Letters(), "full")
    for change in (lambda: context.append([5]), lambda: context.trim_to(3), context.reset):
        stream = context.generate("hello there", max_new_tokens=9, stream=True)
        next(stream)
        change()
        with pytest.raises(CacheError, match="while it was generating"):
            next(stream)


def test_text_from_an_iterator_is_fed_up_to_the_chunk_that_failed() -> None:
    model = tiny("llama")

    def broken() -> Iterator[str]:
        yield "ab" * 10
        raise OSError("gone")

    context = Context(model, Letters(), "sinks:3,window=9", chunk=4)
    with raising(model.lm_head, "forward", MemoryError, 3), pytest.raises(MemoryError):
        context.append(iter(["abcdefg", "hijklmnop"]))
    assert context.usage.seen == 8 or context._runner.halted
    context.reset()
    with pytest.raises(OSError, match="gone"):
        context.append(broken())
    assert context.usage.seen == 0  # fewer ids than a chunk were certain
    assert context.append("a") == 2


def test_a_cache_is_restored_only_if_nothing_was_evicted() -> None:
    model = tiny("llama")
    cache = BoundedCache(parse("window:9"), config=model.config)
    with torch.no_grad():
        model(tokens(1, 6), past_key_values=cache)
        assert cache.go_back(4, 0)
        assert cache.seen == 4
        model(tokens(1, 9), past_key_values=cache)
    assert not cache.go_back(4, 0)
    assert cache.seen == 13
    assert all(isinstance(layer, CacheLayer) for layer in cache.layers)
