"""Recall: the cache against a slow reference, and what it promises about bytes."""

from __future__ import annotations

import copy
import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from tests.helpers.cache_contract import CLOSE, Contract
from tests.helpers.forking import in_a_fork
from tests.helpers.models import CONFIGS, chunked_logits, difference, distinct, tiny, tokens
from tests.helpers.recall_reference import recall_reference
from transom import Context
from transom.errors import CacheError, InputError, PolicyError
from transom.kv import BoundedCache
from transom.kv.recall import RecallLayer
from transom.kv.recall.frames import Frames
from transom.policies import Hierarchical, ModelShape, attention_flops, kv_bytes_bound, parse

CONTRACT = Contract(recall_reference, length=50)
reference = CONTRACT.reference
LENGTH = 70
SPELLED = [
    "hierarchical:8,global=1000,recall=blocks,block=4,blocks=3,chunk=2,representatives=2",
    "hierarchical:8,global=1000,recall=blocks,block=4,blocks=1,chunk=4",
    "hierarchical:4,global=20,recall=blocks,block=4,blocks=2,chunk=1,common=0",
    "hierarchical:12,global=24,recall=blocks,block=3,blocks=4,chunk=3,common=4,representatives=1",
    "hierarchical:5,global=30,recall=blocks,block=1,blocks=6,chunk=1",
]
CHUNKINGS = {"1": [1] * LENGTH, "7": [7] * 10, "all": [LENGTH], "mixed": [1, 18, 1, 1, 2, 40, 1, 6]}


def policies() -> list[Hierarchical]:
    return [parse(text) for text in SPELLED]  # type: ignore[misc]


def recall_layers(cache: BoundedCache) -> list[RecallLayer]:
    return [layer for layer in cache.layers if isinstance(layer, RecallLayer)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cold_bytes_are_the_blocks_and_what_they_are_found_by(dtype: torch.dtype) -> None:
    policy, model = (
        parse("hierarchical:8,global=1000,recall=blocks,block=4,blocks=3"),
        tiny("llama"),
    )
    context = Context(copy.deepcopy(model).to(dtype=dtype), policy=policy)
    context.append(tokens(400))
    config = model.config
    heads, dim = config.num_hidden_layers * config.num_key_value_heads, config.head_dim
    segments = -(-(400 // 4 - 4) // 16)  # all but the first block and three local ones
    blocks = segments * 16 * 4 * heads * 2 * dim * dtype.itemsize
    tables = 128 * heads * (4 * (dim // 2) + 1) * 4  # float32, as they grow by 64 blocks
    sums = heads * ((1 + dim) * dim + dim * (dim // 2)) * 4
    assert context.usage.cold_bytes == blocks + tables + sums
    assert context.usage.total_bytes == context.usage.kv_bytes + context.usage.cold_bytes


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_the_same_blocks_are_recalled(policy: Hierarchical) -> None:
    """In every head of every layer, at every token; and the same logits."""
    model, ids = tiny("llama"), distinct(1, LENGTH)
    expected, (layers,) = reference(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    logits, changes = [], 0
    with torch.no_grad():
        for index in range(LENGTH):
            logits.append(model(ids[:, index : index + 1], past_key_values=cache).logits)
            for mine, theirs in zip(recall_layers(cache), layers, strict=True):
                assert mine.recalled() == theirs.after[index]
                changes += index > 40 and theirs.after[index] != theirs.after[index - 1]
    assert difference(torch.cat(logits, 1), expected) < 1e-4
    assert changes > 5


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_any_chunking_is_the_reference(policy: Hierarchical) -> None:
    model, ids = tiny("llama"), distinct(1, LENGTH)
    expected, _ = reference(model, ids, policy)
    for sizes in CHUNKINGS.values():
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "mistral-sliding"])
def test_other_families(family: str) -> None:
    model, ids, policy = tiny(family), distinct(1, LENGTH), policies()[0]
    expected, _ = reference(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    assert difference(chunked_logits(model, ids, cache, [31, 1, 1, 37]), expected) < CLOSE


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_absolute_positions(policy: Hierarchical) -> None:
    model, ids = tiny("llama"), distinct(1, LENGTH)
    expected, _ = reference(model, ids, policy, compact=False)
    for sizes in ([LENGTH], [9] * 7 + [7]):
        cache = BoundedCache(policy, config=model.config, positions="absolute")
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE
    assert difference(reference(model, ids, policy)[0], expected) > 0.01


@pytest.mark.parametrize("positions", ["compact", "absolute"])
@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "mistral-sliding"])
def test_room_for_every_block_is_a_dynamic_cache(family: str, positions: Any) -> None:
    model, ids = tiny(family), tokens(2, LENGTH)
    policy = parse("hierarchical:8,global=1000,recall=blocks,block=4,blocks=20")
    for sizes in CHUNKINGS.values():
        theirs = chunked_logits(model, ids, DynamicCache(config=model.config), sizes)
        cache = BoundedCache(policy, config=model.config, positions=positions)
        assert difference(chunked_logits(model, ids, cache, sizes), theirs) < CLOSE


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_padded_rows_are_the_rows_alone(policy: Hierarchical) -> None:
    CONTRACT.padded_rows_are_the_rows_alone(policy)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sizes_any_padding_any_chunking(data: st.DataObject) -> None:
    model = tiny("llama")
    block = data.draw(st.integers(1, 5))
    chunk = data.draw(st.sampled_from([n for n in range(1, block + 1) if block % n == 0]))
    local, blocks = (data.draw(st.integers(1, 3)) for _ in range(2))
    policy = Hierarchical(
        local * block,
        data.draw(st.integers(blocks * block, 40)),
        recall="blocks",
        block=block,
        blocks=blocks,
        representatives=data.draw(st.integers(1, block)),
        chunk=chunk,
    )
    rows, length = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 40))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    mask = torch.tensor(bits).reshape(rows, length).long()
    sizes: list[int] = []
    while sum(sizes) < length:
        sizes.append(data.draw(st.integers(1, length - sum(sizes))))
    ids = distinct(rows, length)
    expected, _ = reference(model, ids, policy, mask)
    cache = BoundedCache(policy, config=model.config)
    got = chunked_logits(model, ids, cache, sizes, mask)
    real = mask.bool()
    if real.any():
        assert difference(got[real], expected[real]) < CLOSE


@given(recalled=st.integers(1, 6), local=st.integers(1, 6), whole=st.integers(0, 60))
def test_frames_hold_what_they_say(recalled: int, local: int, whole: int) -> None:
    """Moving blocks one by one ends where the closed forms say."""
    frames = Frames(recalled, local)
    held: dict[int, int] = {0: 0}
    for done in range(1, whole + 1):  # block `done - 1` is complete, `done` begins
        filled, to = frames.filling(done - 1), frames.of(done - 1)
        leaving = frames.leaving(done)
        if filled != to:
            assert held[to] == leaving
        held[to] = held[filled]
        held[frames.filling(done)] = done
    used = frames.filling(whole) + 1
    assert sorted(held) == list(range(used))
    assert frames.left_out(whole) == whole + 1 - used
    local = range(max(0, whole - frames.local), whole)
    assert [held[frames.of(block)] for block in local] == [*local]
    assert held[used - 1] == whole


@pytest.mark.parametrize("policy", policies(), ids=str)
def test_hot_bytes_are_the_bound_and_cold_bytes_are_counted(policy: Hierarchical) -> None:
    model = tiny("llama")
    shape = ModelShape.from_config(model.config)
    cache = BoundedCache(policy, config=model.config)
    for size in (1, 5, 40, 1, 200, 14):
        chunked_logits(model, tokens(2, 261), cache, [size])
        assert cache.nbytes == kv_bytes_bound(policy, shape, batch=2)
    segments = -(-policy.global_blocks // 16) + 1  # one more than needed, for where they begin
    room = max(64, policy.global_blocks)
    assert 0 < cache.cold_nbytes <= 2 * policy.cold_block_bytes(shape) * max(segments * 16, room)
    full = parse("hierarchical:8,global=100000,recall=blocks,block=4,blocks=3")
    growing = BoundedCache(full, config=model.config)
    seen = []
    for _ in range(4):
        chunked_logits(model, tokens(1, 1024), growing, [256])
        seen.append(growing.cold_nbytes)
    assert seen == sorted(set(seen))


def test_what_attention_costs() -> None:
    """Counted from what is seen at every token."""
    policy = policies()[0]
    shape = ModelShape(layers=1, heads=1, kv_heads=1, head_dim=1)
    block, local = policy.block_size, policy.local
    pairs = 0
    for position in range(LENGTH):
        start = max(block, position // block * block - local)
        cold = max(0, start // block - 1)
        pairs += min(position + 1, block) + min(cold, policy.recalled) * block
        pairs += max(0, position + 1 - start)
    assert attention_flops(policy, shape, LENGTH) == 4 * pairs


@pytest.mark.parametrize("policy", policies()[:3], ids=str)
def test_beams_reorder_repeat_and_reset(policy: Hierarchical) -> None:
    CONTRACT.beams_reorder_repeat_and_reset(policy)


@pytest.mark.parametrize("policy", policies()[:3], ids=str)
def test_generate(policy: Hierarchical) -> None:
    CONTRACT.generate(policy)


def test_bfloat16() -> None:
    """Rounding may recall another block now and then; mostly it is the same."""
    model, ids, policy = tiny("llama"), distinct(1, LENGTH), policies()[0]
    expected, _ = reference(model, ids, policy)
    rounded = tiny("llama").to(torch.bfloat16)
    cache = BoundedCache(policy, config=rounded.config)
    got = chunked_logits(rounded, ids, cache, CHUNKINGS["mixed"]).float()
    assert not got.isnan().any()
    assert float((got - expected).abs().median()) < 0.1


def test_cold_blocks_in_a_file(tmp_path: Path) -> None:
    """The same numbers; no name in the folder; room given back is used again."""
    model, ids, policy = tiny("llama"), distinct(1, LENGTH), policies()[0]
    expected = chunked_logits(model, ids, BoundedCache(policy, config=model.config), [LENGTH])
    cache = BoundedCache(policy, config=model.config, cold=tmp_path / "cold")
    assert torch.equal(chunked_logits(model, ids, cache, [LENGTH]), expected)
    assert os.listdir(tmp_path / "cold") == []
    store = recall_layers(cache)[0].cold
    end = store._end
    assert end >= sum(layer.shelves[0].nbytes for layer in recall_layers(cache)) > 0
    cache.reset()
    gc.collect()
    assert torch.equal(chunked_logits(model, ids, cache, [LENGTH]), expected)
    assert store._end == end


def test_forks_share_what_is_cold(tmp_path: Path) -> None:
    model, ids, policy = tiny("llama"), distinct(1, LENGTH), policies()[0]
    for cold in (None, tmp_path):
        cache = BoundedCache(policy, config=model.config, cold=cold)
        chunked_logits(model, ids[:, :45], cache, [45])
        twin = cache.fork()
        for mine, theirs in zip(recall_layers(cache), recall_layers(twin), strict=True):
            for one, other in zip(
                mine.shelves[0].segments, theirs.shelves[0].segments, strict=True
            ):
                assert one.keys.data_ptr() == other.keys.data_ptr()
        other = distinct(1, 25, seed=9)
        changed = torch.cat((ids[:, :45], other), dim=1)
        for one, text in ((twin, changed), (cache, ids)):
            fresh = BoundedCache(policy, config=model.config)
            expected = chunked_logits(model, text, fresh, [45, 25])[:, 45:]
            assert torch.equal(chunked_logits(model, text, one, [25]), expected)


def test_a_budget_in_bytes() -> None:
    model = tiny("llama")
    text = "hierarchical:8,global=100kB,recall=blocks,block=4,blocks=3"
    context = Context(model, policy=text)
    policy = context.policy
    assert isinstance(policy, Hierarchical)
    assert isinstance(policy.global_, int)
    block = policy.cold_block_bytes(ModelShape.from_config(model.config))
    assert policy.global_blocks == 100_000 // block
    with pytest.raises(PolicyError, match="one block of 4 tokens takes"):
        Context(model, policy=text.replace("100kB", "100B"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hierarchical:8,recall=all", "expected one of none, blocks"),
        ("hierarchical:8,block=4", "recall=blocks"),
        ("hierarchical:8,global=2GiB", "global"),
        ("hierarchical:1000,recall=blocks", "such as 1024"),
        ("hierarchical:1024,recall=blocks,chunk=7", "divides the block"),
        ("hierarchical:1024,recall=blocks,representatives=65", "at most as many"),
        ("hierarchical:1024,recall=blocks,common=15", "expected at most as many"),
        ("hierarchical:1024,recall=blocks,common=-1", "common"),
        ("hierarchical:64,recall=blocks", "no room for a recalled block"),
        ("hierarchical:1024,global=100,recall=blocks", "at least 896"),
        ("hierarchical:1024,global=9999,recall=blocks,kv=int8", "cannot be combined"),
        ("hierarchical:1024,global=12,recall=blocks,blocks=0", "blocks"),
        ("hierarchical:1024,global=7x,recall=blocks", "global"),
    ],
)
def test_settings_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        parse(text)


def test_a_folder_is_for_policies_that_recall(tmp_path: Path) -> None:
    model = tiny("llama")
    with pytest.raises(InputError, match="recalls nothing"):
        Context(model, policy="window:20", cold=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no file can be made"):
        Context(model, policy=SPELLED[0], cold=tmp_path / "file")
    for name in ("", "a\0b", "~nobody-of-that-name/cold"):  # none is the current folder
        with pytest.raises(InputError, match=r"cold is .*expected the path of a folder"):
            Context(model, policy=SPELLED[0], cold=name)


def test_where_cold_blocks_were_does_not_matter_when_loading(tmp_path: Path) -> None:
    model, ids = tiny("llama"), distinct(1, LENGTH)[0]
    context = Context(model, policy=SPELLED[0], cold=tmp_path / "one")
    context.append(ids[:50])
    assert context.usage.cold_bytes > 0
    context.save(tmp_path / "state")
    expected = context.score(ids[50:]).tolist()
    for cold in (None, tmp_path / "two"):
        loaded = Context.load(tmp_path / "state", model, cold=cold)
        assert loaded.score(ids[50:]).tolist() == expected
        assert loaded.usage == context.usage


@pytest.mark.parametrize("use", ["append", "score", "fork", "save"])
def test_a_fork_leaves_the_file_alone(tmp_path: Path, use: str) -> None:
    """Cold blocks in memory it may use: those are its own."""
    model, ids = tiny("llama"), distinct(1, LENGTH)[0]

    def used(context: Context) -> list[float]:
        torch.set_num_threads(1)  # a fork has no other threads
        if use == "append":
            context.append(ids[40:60])
        elif use == "fork":
            context.fork().append(ids[40:60])
        elif use == "save":
            context.save(tmp_path / "state")
        return context.score(ids[60:]).tolist()

    for cold in (None, tmp_path / "cold"):
        context, other = (Context(model, policy=SPELLED[0], cold=cold) for _ in range(2))
        for one in (context, other):
            one.append(ids[:40])
        if cold is None:
            assert in_a_fork(lambda: used(context)) == used(other)  # noqa: B023
        else:
            with pytest.raises(CacheError, match=r"cold store in .*cold belongs to process"):
                in_a_fork(lambda: used(context))  # noqa: B023
            assert used(context) == used(other)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_row_that_is_not_numbers_any_more_harms_no_other(wrong: float) -> None:
    model, ids = tiny("llama"), distinct(2, LENGTH)
    id_ = int(ids[0, 5])
    rows = torch.where(ids[1:] == id_, id_ + 1, ids[1:])
    with torch.no_grad():
        model.get_input_embeddings().weight[id_] = wrong
    sizes = [30, 1, 1, LENGTH - 32]
    alone, both = (BoundedCache(parse(SPELLED[0]), config=model.config) for _ in range(2))
    expected = chunked_logits(model, rows, alone, sizes)
    found = chunked_logits(model, torch.cat((ids[:1], rows)), both, sizes)
    assert torch.isnan(found[0, 5:]).all()
    assert difference(found[1:], expected) < 1e-4


def test_keys_whose_squares_are_no_numbers_any_more_are_taken() -> None:
    model, ids = tiny("llama"), distinct(1, LENGTH)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(1e25)
    for text in SPELLED:
        cache = BoundedCache(parse(text), config=model.config)
        assert torch.isfinite(chunked_logits(model, ids, cache, [30, 1, LENGTH - 31])).all()
