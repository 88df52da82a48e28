"""A bounded cache answers whatever a `DynamicCache` answers: rightly, or with a refusal by name."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tests.helpers.models import (
    chunked_logits,
    dense_reference,
    difference,
    distinct,
    left_padded,
    tiny,
    tokens,
)
from tests.helpers.policy_examples import bounded
from tests.helpers.scored_reference import scored_reference
from tests.helpers.token_by_token import logits_by
from transom.attention.rotary import Rotary
from transom.errors import CacheError
from transom.kv import BoundedCache
from transom.policies import Full, Policy, Sinks, parse

CLOSE = 1e-4
RECALL = "hierarchical:8,global=100,recall=blocks,block=4,blocks=3,chunk=2"


def fed(
    policy: Policy | str,
    sizes: list[int],
    *,
    family: str = "llama",
    rows: int = 2,
    mask: Tensor | None = None,
    **given: Any,
) -> tuple[Any, Tensor, BoundedCache]:
    model, ids = tiny(family), distinct(rows, sum(sizes))
    cache = BoundedCache(policy, config=model.config, **given)
    chunked_logits(model, ids, cache, sizes, mask)
    return model, ids, cache


def full(sizes: list[int], family: str = "llama") -> tuple[Any, Tensor, BoundedCache, DynamicCache]:
    model, ids, cache = fed("full", sizes, family=family)
    theirs = DynamicCache(config=model.config)
    chunked_logits(model, ids, theirs, sizes)
    return model, ids, cache, theirs


def check_same_states(mine: Any, theirs: Any) -> None:
    """Iterating gives the same numbers."""
    for (keys, values, window), others in zip(mine, theirs, strict=True):
        assert keys.shape == others[0].shape
        assert difference(keys, others[0]) < CLOSE
        assert difference(values, others[1]) < CLOSE
        assert (window is None) == (others[2] is None)


# What is kept, as tensors.


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt-neox", "smollm3", "gemma3"])
@pytest.mark.parametrize("sizes", [[1], [30], [20, 1, 9], [29, 1]], ids=str)
def test_without_a_bound_states_are_those_of_a_dynamic_cache(family: str, sizes: list[int]) -> None:
    *_, cache, theirs = full(sizes, family)
    check_same_states(cache, theirs)


def kept_by_reference(
    model: Any, ids: Tensor, policy: Any, compact: bool = True, mask: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Per layer, what the newest token of each row sees: by the mask, one token after the other."""
    states: list[Any] = []
    positions = None if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
    with dense_reference(model, policy, compact, states), torch.no_grad():
        model(ids, attention_mask=mask, position_ids=positions, use_cache=False)
    rotary, found = Rotary.from_config(model.config), []
    flags = getattr(model.config, "no_rope_layers", None) or [1] * len(states)
    for (keys, values), rotates in zip(states, flags, strict=True):
        rows = []
        for row in range(len(ids)):
            real = range(ids.shape[1]) if mask is None else mask[row].nonzero().flatten().tolist()
            newest = len(real) - 1
            seen = [place for place in range(len(real)) if policy.visible(newest, place)]
            moved = [
                int(policy.gap(torch.tensor(newest)))
                if compact and rotates and place < policy.pinned
                else 0
                for place in seen
            ]
            columns = [real[place] for place in seen]
            cos, sin = rotary.angles(torch.tensor(moved))
            rows.append((rotary.rotate(keys[row][:, columns], cos, sin), values[row][:, columns]))
        most = max(k.shape[1] for k, _ in rows)
        padded = [
            torch.stack(
                [torch.nn.functional.pad(x[i], (0, 0, most - x[i].shape[1], 0)) for x in rows]
            )
            for i in (0, 1)
        ]
        found.append((padded[0], padded[1]))
    return found


@pytest.mark.parametrize("policy", [*bounded(), Full()], ids=str)
@pytest.mark.parametrize("sizes", [[1], [5], [20], [50], [30, 1, 1, 1], [49, 1], [10, 40]], ids=str)
def test_states_are_those_that_the_newest_token_sees(policy: Policy, sizes: list[int]) -> None:
    model, ids, cache = fed(policy, sizes)
    expected = kept_by_reference(model, ids, policy)
    check_same_states(cache, [(*each, None) for each in expected])
    assert cache.layers[0].keys.shape[2] == cache.kept


@pytest.mark.parametrize("family", ["qwen3", "gpt-neox", "smollm3"])
@pytest.mark.parametrize("positions", ["compact", "absolute"])
def test_states_in_other_families(family: str, positions: Any) -> None:
    model, ids, cache = fed(Sinks(3, 17), [40, 1], family=family, positions=positions)
    expected = kept_by_reference(model, ids, Sinks(3, 17), positions == "compact")
    check_same_states(cache, [(*each, None) for each in expected])


@pytest.mark.parametrize("sizes", [[41], [30, 1, 10], [40, 1]], ids=str)
def test_rows_that_keep_fewer_tokens_have_zeros_in_front(sizes: list[int]) -> None:
    mask = left_padded([41, 9], 41)
    model, ids, cache = fed(Sinks(3, 17), sizes, mask=mask)
    expected = kept_by_reference(model, ids, Sinks(3, 17), mask=mask)
    check_same_states(cache, [(*each, None) for each in expected])
    assert not cache.layers[0].keys[1, :, :11].any()


def test_states_after_positions_start_over() -> None:
    """Only distances count then: every kept key is as far from the newest token as before."""
    model, _ids, cache = fed(Sinks(3, 17), [40])
    before = [layer.keys for layer in cache.layers]
    cache.rebase(15)
    rotary = Rotary.from_config(model.config)
    back = rotary.angles(torch.tensor(-15))
    for layer, keys in zip(cache.layers, before, strict=True):
        assert difference(layer.keys, rotary.rotate(keys, *back)) < CLOSE


@pytest.mark.parametrize("policy", ["sinks:3,window=97,kv=int8", "window:100,kv=int8"])
def test_quantized_states_are_decoded(policy: str) -> None:
    exact = policy.partition(",kv")[0]
    _, _, cache = fed(policy, [80, 1, 5])
    _, _, plain = fed(exact, [80, 1, 5])
    for mine, theirs in zip(cache.layers[:1], plain.layers[:1], strict=True):
        assert mine.keys.shape == theirs.keys.shape
        assert torch.equal(mine.values[:, :, -64:], theirs.values[:, :, -64:])
        assert 0 < difference(mine.keys, theirs.keys) < 0.05
        assert 0 < difference(mine.values, theirs.values) < 0.05


@pytest.mark.parametrize("text", ["snapkv:20", "keydiff:20", "tova:20", "key-norm:20"])
@pytest.mark.parametrize("padded", [False, True])
def test_states_of_heads_that_keep_different_tokens(text: str, padded: bool) -> None:
    mask = left_padded([70, 12], 70) if padded else None
    policy = parse(text)
    model, ids, cache = fed(policy, [60, 1, 9], mask=mask)
    _, layers = logits_by(scored_reference, model, ids, policy, mask)
    for row, of_row in enumerate(layers):
        for layer, reference in zip(cache.layers, of_row, strict=True):
            for head, kept in enumerate(reference.heads):
                count = len(kept.positions)
                mine = layer.keys[row, head], layer.values[row, head]
                assert difference(mine[0][-count:], reference.keys(kept)) < CLOSE
                assert difference(mine[1][-count:], torch.stack(kept.values)) < CLOSE
                assert not mine[0][:-count].any()


@pytest.mark.parametrize("text", ["keydiff:24,heads=adaptive", RECALL])
def test_states_that_fit_into_no_tensor_are_refused(text: str) -> None:
    _, _, cache = fed(text, [30])
    for read in (list, lambda x: x.layers[0].keys, lambda x: x.layers[0].values):
        with pytest.raises(CacheError, match="fit into no tensor"):
            read(cache)


def test_states_are_copies() -> None:
    model, _ids, cache = fed("sinks:3,window=17", [30])
    expected = chunked_logits(model, tokens(2, 35), cache.fork(), [5])
    for keys, values, _ in cache:
        keys.zero_()
        values.zero_()
    assert torch.equal(chunked_logits(model, tokens(2, 35), cache, [5]), expected)


def test_there_are_no_states_before_the_first_token_and_after_a_reset() -> None:
    for text in ("full", "window:9", "snapkv:24", RECALL):
        model, _, cache = fed(text, [5])
        cache.reset()
        for each in (cache, BoundedCache(text, config=model.config)):
            assert list(each) == [(None, None, None)] * 3
            assert each.layers[0].keys is None
    lfm = BoundedCache("full", config=tiny("lfm2").config)
    assert list(lfm) == [(None, None, None)] * 3


def test_states_cannot_be_read_in_the_middle_of_a_pass() -> None:
    model, ids, cache = fed("window:9", [5])
    hook = model.model.layers[1].register_forward_hook(lambda *_: cache.layers[0].keys)
    with pytest.raises(CacheError, match="in the middle of a forward pass"):
        model(ids, past_key_values=cache)
    hook.remove()


@pytest.mark.parametrize("sizes", [[30], [20, 1, 9]], ids=str)
def test_it_becomes_a_dynamic_cache(sizes: list[int]) -> None:
    model, _ids, cache = fed("full", sizes)
    theirs, more = DynamicCache(cache), tokens(2, 39)
    expected = chunked_logits(model, more, theirs, [1, 8])
    assert difference(chunked_logits(model, more, cache, [1, 8]), expected) < CLOSE


# The names that DynamicCache and its layers have in transformers 5.24.

ANSWERED: dict[str, Callable[[Any], Any]] = {
    "layer_class_to_replicate": lambda x: x.layer_class_to_replicate,
    "offloading": lambda x: x.offloading,
    "get_seq_length": lambda x: [x.get_seq_length(), x.get_seq_length(1)],
    "get_max_length": lambda x: [x.get_max_length(), x.get_max_length(2)],
    "get_mask_sizes": lambda x: [x.get_mask_sizes(4, 0), x.get_mask_sizes(1, 1)],
    "get_query_offset": lambda x: x.get_query_offset(),
    "is_compileable": lambda x: x.is_compileable,
    "is_croppable": lambda x: x.is_croppable,
    "is_dummy": lambda x: x.is_dummy,
    "is_initialized": lambda x: x.is_initialized,
    "is_linear": lambda x: x.is_linear,
    "is_sliding": lambda x: x.is_sliding,
    "is_recording_past": lambda x: x.is_recording_past(0),
    "layers": lambda x: len(x.layers),
    "batch_size": lambda x: x.batch_size,
    "has_previous_state": lambda x: x.has_previous_state(),
    "get_conv_state": lambda x: x.get_conv_state(0),
    "get_recurrent_state": lambda x: x.get_recurrent_state(0),
    "update_conv_state": lambda x: x.update_conv_state(torch.zeros(2, 4, 4), 0),
    "update_recurrent_state": lambda x: x.update_recurrent_state(torch.zeros(2, 4, 4), 0),
    "update_indexer": lambda x: x.update_indexer(torch.zeros(2, 1, 4), 0),
    # Not names of a DynamicCache, though of others, or of earlier releases.
    "max_batch_size": lambda x: x.max_batch_size,
    "max_cache_len": lambda x: x.max_cache_len,
    "to_legacy_cache": lambda x: x.to_legacy_cache(),
    "len": len,
    "subscript": lambda x: x[0],
    "iteration": lambda x: len(list(x)),
}
CHANGED: dict[str, Callable[[Any], Any]] = {
    "activate_past_recording": lambda x: x.activate_past_recording(),
    "crop": lambda x: x.crop(-3),
    "reorder_cache": lambda x: x.reorder_cache(torch.tensor([1, 0])),
    "batch_repeat_interleave": lambda x: x.batch_repeat_interleave(3),
    "batch_select_indices": lambda x: x.batch_select_indices(torch.tensor([1])),
    "early_initialization": lambda x: x.early_initialization(2, 2, 8, torch.float32, "cpu"),
    "offload": lambda x: x.offload(0, only_non_sliding=False),
    "prefetch": lambda x: x.prefetch(0),
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}
ELSEWHERE = {"reset", "update"}  # in tests of their own


def answer(of: Any, ask: Callable[[Any], Any]) -> Any:
    """What comes, or the kind of error."""
    try:
        return ask(of)
    except Exception as error:
        return type(error)


def public(of: Any) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_the_tables_are_complete() -> None:
    theirs = DynamicCache(config=tiny("llama").config)
    assert public(theirs) - {*ANSWERED, *CHANGED, *ELSEWHERE} == set()
    assert public(theirs.layers[0]) - {*OF_LAYERS, *REFUSED_BY_LAYERS, *LAYERS_ELSEWHERE} == set()


@pytest.mark.parametrize("name", ANSWERED)
@pytest.mark.parametrize("when", ["new", "fed"])
def test_answers_are_those_of_a_dynamic_cache(name: str, when: str) -> None:
    if when == "new":
        config = tiny("llama").config
        mine, theirs = BoundedCache("full", config=config), DynamicCache(config=config)
    else:
        *_, mine, theirs = full([20, 1])
    got, expected = (answer(x, ANSWERED[name]) for x in (mine, theirs))
    if name == "batch_size" and when == "fed":
        expected = 2  # which DynamicCache does not know
    assert got == expected


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_changes_are_those_of_a_dynamic_cache(name: str, family: str) -> None:
    model, _, mine, theirs = full([6, 1], family)
    got, expected = (answer(x, CHANGED[name]) for x in (mine, theirs))
    if name in ("deepcopy", "pickle"):
        mine, theirs = got, expected
    else:
        assert got == expected is None or name == "prefetch"
    check_same_states(mine, theirs)
    assert mine.get_seq_length() == theirs.get_seq_length()
    more = tokens(len(mine.planner.lengths), 5)
    want = chunked_logits(model, more.repeat(1, 3), theirs, [1, 4])
    assert difference(chunked_logits(model, more.repeat(1, 3), mine, [1, 4]), want) < CLOSE


@pytest.mark.parametrize("policy", ["full", "sinks:3,window=17", "snapkv:24", RECALL])
def test_storage_can_be_made_before_the_first_token(policy: str) -> None:
    model, ids = tiny("llama"), distinct(2, 40)
    expected = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [30, 10])
    for batch in (2, 5):
        cache = BoundedCache(policy, config=model.config)
        cache.early_initialization(batch, 2, 8, torch.float32, torch.device("cpu"))
        assert (cache.is_initialized, cache.batch_size, cache.seen) == (True, batch, 0)
        assert list(cache) == [(None, None, None)] * 3
        assert torch.equal(chunked_logits(model, ids, cache, [30, 10]), expected)


OF_LAYERS: dict[str, Callable[[Any], Any]] = {
    "device": lambda x: x.device,
    "get_mask_sizes": lambda x: x.get_mask_sizes(3),
    "get_max_length": lambda x: x.get_max_length(),
    "get_seq_length": lambda x: x.get_seq_length(),
    "is_compileable": lambda x: x.is_compileable,
    "is_croppable": lambda x: x.is_croppable,
    "is_initialized": lambda x: x.is_initialized,
    "is_sliding": lambda x: x.is_sliding,
    "supports_early_init": lambda x: x.supports_early_init,
}
REFUSED_BY_LAYERS: dict[str, Callable[[Any], Any]] = {
    "batch_repeat_interleave": lambda x: x.batch_repeat_interleave(2),
    "batch_select_indices": lambda x: x.batch_select_indices(torch.tensor([0])),
    "crop": lambda x: x.crop(-1),
    "reorder_cache": lambda x: x.reorder_cache(torch.tensor([1, 0])),
    "reset": lambda x: x.reset(),
    "update": lambda x: x.update(torch.zeros(2, 2, 1, 8), torch.zeros(2, 2, 1, 8)),
}
LAYERS_ELSEWHERE = {"keys", "values", "lazy_initialization", "offload", "prefetch"}


@pytest.mark.parametrize("name", OF_LAYERS)
def test_layers_answer_as_theirs_do(name: str) -> None:
    *_, mine, theirs = full([20, 1])
    assert isinstance(theirs.layers[1], DynamicLayer)
    ask = OF_LAYERS[name]
    assert ask(mine.layers[1]) == ask(theirs.layers[1])


@pytest.mark.parametrize("name", REFUSED_BY_LAYERS)
@pytest.mark.parametrize("policy", ["full", "sinks:3,window=17", "snapkv:24", RECALL])
def test_a_layer_cannot_be_changed_alone(policy: str, name: str) -> None:
    model, _ids, cache = fed(policy, [20, 1])
    expected = chunked_logits(model, tokens(2, 26), cache.fork(), [5])
    with pytest.raises(CacheError):
        REFUSED_BY_LAYERS[name](cache.layers[1])
    with pytest.raises(CacheError, match="cannot be replaced"):
        cache.layers[1].keys = torch.zeros(2, 2, 21, 8)
    with pytest.raises(CacheError, match="cannot be replaced"):
        cache.layers[1].values = None
    assert torch.equal(chunked_logits(model, tokens(2, 26), cache, [5]), expected)


@pytest.mark.parametrize("policy", ["full", "sinks:3,window=17", "snapkv:24", RECALL])
def test_layers_can_be_moved_away_and_back(policy: str) -> None:
    model, _ids, cache = fed(policy, [20, 1])
    twin = cache.fork()
    for layer in twin.layers:
        layer.offload()
        layer.prefetch()
    expected = chunked_logits(model, tokens(2, 26), cache, [5])
    assert torch.equal(chunked_logits(model, tokens(2, 26), twin, [5]), expected)
