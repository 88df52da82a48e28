"""The order of windows depends on the seed alone, and can be resumed anywhere."""

from __future__ import annotations

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.numbered_corpus import SIZE, WINDOWS, numbered, numbers
from transom.corpus import TokenCorpus
from transom.corpus.shuffle import Shuffle
from transom.errors import InputError
from transom.torch_data import WindowDataset, WindowStream
from transom.torch_data.source import AT_ONCE

# These tests need more workers than there are cores; torch warns about that.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    return numbered(tmp_path_factory.mktemp("corpora") / "books")


def test_items_are_what_a_model_takes(corpus: TokenCorpus) -> None:
    dataset = corpus.torch_dataset(6, stride=4, packed=True)
    assert isinstance(dataset, WindowDataset)
    item = dataset[1]
    wanted = corpus.windows(6, stride=4, packed=True)[1]
    assert item["input_ids"].tolist() == wanted.ids.tolist()
    assert item["position_ids"].tolist() == wanted.position_ids.tolist()
    labels = np.where(wanted.score_mask, wanted.ids.astype(int), -100)
    assert item["labels"].tolist() == labels.tolist()
    assert {tensor.dtype for tensor in item.values()} == {torch.int64}
    assert "attention_mask" not in item
    plain, wanted = corpus.torch_dataset(6, stride=4)[-1], corpus.windows(6, stride=4)[-1]
    assert plain["attention_mask"].tolist() == wanted.attention_mask.tolist()
    assert 0 < sum(plain["attention_mask"]) < 6
    assert "position_ids" not in plain


def test_an_epoch_has_every_window_once_and_no_two_are_alike(corpus: TokenCorpus) -> None:
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    orders = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        orders.append(numbers(dataset[i] for i in range(len(dataset))))
        assert sorted(orders[-1]) == [*range(WINDOWS)]
    assert len({tuple(order) for order in orders}) == 3
    assert numbers(corpus.torch_dataset(SIZE)[i] for i in range(WINDOWS)) == [*range(WINDOWS)]
    other = corpus.torch_dataset(SIZE, shuffle_seed=8)
    assert numbers(other[i] for i in range(WINDOWS)) != orders[0]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_workers_make_no_difference(corpus: TokenCorpus, workers: int, batch_size: int) -> None:
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    wanted = numbers(dataset[i] for i in range(WINDOWS))
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers)
    assert numbers(loader) == wanted
    stream = corpus.torch_stream(SIZE, batch_size=batch_size, shuffle_seed=7, epochs=2)
    assert isinstance(stream, WindowStream)
    dataset.set_epoch(1)
    wanted += numbers(dataset[i] for i in range(WINDOWS))
    batches = [*DataLoader(stream, batch_size=None, num_workers=workers)]
    assert numbers(batches) == wanted
    assert batches[-1]["position"] == 2 * WINDOWS


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_each_step(corpus: TokenCorpus, ranks: int) -> None:
    """A step of 4 windows has the same ones for any number of ranks, and none is left out."""
    whole = corpus.torch_dataset(SIZE, shuffle_seed=7)
    wanted = numbers(whole[i] for i in range(WINDOWS))
    shares = [
        corpus.torch_dataset(SIZE, shuffle_seed=7, rank=rank, ranks=ranks) for rank in range(ranks)
    ]
    taken = [numbers(share[i] for i in range(len(share))) for share in shares]
    assert sorted(chain(*taken)) == sorted(wanted)
    assert [order[0] for order in taken] == wanted[:ranks]
    each = 4 // ranks
    streams = [
        iter(
            corpus.torch_stream(
                SIZE, batch_size=each, shuffle_seed=7, rank=rank, ranks=ranks, epochs=1
            )
        )
        for rank in range(ranks)
    ]
    for step in range(WINDOWS // 4):
        batches = [next(stream) for stream in streams]
        assert sorted(numbers(batches)) == sorted(wanted[4 * step : 4 * step + 4])
        assert {int(batch["position"]) for batch in batches} == {4 * step + 4}


@pytest.mark.parametrize("stopped", [0, 3, 11, 25])
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 3)])
def test_a_stream_goes_on_with_any_number_of_workers_and_ranks(
    corpus: TokenCorpus, stopped: int, before: int, after: int
) -> None:
    def stream(**settings: Any) -> WindowStream:
        return corpus.torch_stream(SIZE, batch_size=2, shuffle_seed=7, epochs=3, **settings)

    wanted = numbers(stream())
    first = stream()
    state = first.state_dict()
    taken = []
    for batch in DataLoader(first, batch_size=None, num_workers=before):
        if len(taken) == stopped:
            break
        taken.append(batch)
        state = first.state_after(batch)
        if not before:
            assert state == first.state_dict()
    state = json.loads(json.dumps(state))
    assert set(state) == {"position", "windows", "seed"}
    rest = stream()
    rest.load_state_dict(state)
    assert numbers(taken) + numbers(DataLoader(rest, batch_size=None, num_workers=after)) == wanted
    two = [stream(rank=rank, ranks=2) for rank in range(2)]
    shares = []
    for share in two:
        share.load_state_dict(state)
        shares.append(numbers(share))
    assert sorted(chain(*shares)) == sorted(wanted[2 * stopped :])


@pytest.mark.parametrize("taken", [0, 1, 9, WINDOWS])
def test_a_dataset_goes_on_with_any_number_of_ranks(corpus: TokenCorpus, taken: int) -> None:
    def dataset(**settings: Any) -> WindowDataset:
        return corpus.torch_dataset(SIZE, shuffle_seed=7, **settings)

    whole = dataset()
    wanted = numbers(whole[i] for i in range(WINDOWS))
    rest = dataset()
    rest.load_state_dict(whole.state_dict(taken))
    left = numbers(rest[i] for i in range(len(rest)))
    if taken == WINDOWS:  # after a whole epoch, the next one starts
        whole.set_epoch(1)
        assert left == numbers(whole[i] for i in range(WINDOWS))
        return
    assert left == wanted[taken:]
    shares = [dataset(rank=rank, ranks=3) for rank in range(3)]
    for share in shares:
        share.load_state_dict(whole.state_dict(taken))
    assert sorted(chain(*(numbers(s[i] for i in range(len(s))) for s in shares))) == sorted(left)
    assert rest.state_dict(2) == whole.state_dict(taken + 2)


def test_a_corpus_that_has_grown_goes_on_with_what_it_had(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    with TokenCorpus.create(folder, vocab_size=60_000) as writer:
        writer.add_document(np.arange(80))
    stream = TokenCorpus.open(folder).torch_stream(SIZE, batch_size=1, shuffle_seed=1, epochs=1)
    batches = [*stream]
    state = stream.state_after(batches[3])
    with TokenCorpus.append(folder) as writer:
        writer.add_document(np.arange(80, 160))
    grown = TokenCorpus.open(folder).torch_stream(SIZE, batch_size=1, shuffle_seed=1, epochs=1)
    grown.load_state_dict(state)
    assert numbers(grown) == numbers(batches[4:])


def test_they_can_be_pickled(corpus: TokenCorpus) -> None:
    stream = corpus.torch_stream(SIZE, batch_size=4, shuffle_seed=7, epochs=1)
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    stream.load_state_dict({"position": 8, "windows": WINDOWS, "seed": 7})
    copies = pickle.loads(pickle.dumps((stream, dataset)))
    assert numbers(copies[0]) == numbers(stream)
    assert numbers([copies[1][3]]) == numbers([dataset[3]])


def test_spawned_workers(corpus: TokenCorpus) -> None:
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    loader = DataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="spawn")
    assert numbers(loader) == numbers(dataset[i] for i in range(WINDOWS))


def test_hostile_settings(corpus: TokenCorpus) -> None:
    with pytest.raises(InputError, match="rank is 2 of 2; expected 0 to 1"):
        corpus.torch_dataset(SIZE, rank=2, ranks=2)
    with pytest.raises(InputError, match="ranks is None"):
        corpus.torch_dataset(SIZE, rank=2)
    with pytest.raises(InputError, match="batch_size is 0"):
        corpus.torch_stream(SIZE, batch_size=0)
    with pytest.raises(InputError, match="epochs is 0"):
        corpus.torch_stream(SIZE, epochs=0)
    with pytest.raises(InputError, match="has no parameter 'pad'"):
        corpus.torch_dataset(SIZE, pad=0)
    with pytest.raises(InputError, match="has no windows of 1000 ids"):
        corpus.torch_dataset(1000, drop_last=True)
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    for index in (WINDOWS, -WINDOWS - 1, 10**30, np.int64(WINDOWS), torch.tensor(WINDOWS)):
        with pytest.raises(IndexError, match=f"there are {WINDOWS}"):
            dataset[index]
    for index in (1.0, "0", slice(0, 2), None, torch.tensor(1.0), [0]):
        with pytest.raises(InputError, match="expected a whole number, one at a time"):
            dataset[index]
    for epoch in (-1, 1.0, "1", True, 2**62):
        for one in (dataset, corpus.torch_stream(SIZE, shuffle_seed=7)):
            with pytest.raises(InputError, match="epoch is"):
                one.set_epoch(epoch)
    with pytest.raises(InputError, match="taken is -1"):
        dataset.state_dict(-1)
    for seed in (True, 1.5, "7", np.float32(1), (1,)):
        for kind in (corpus.torch_dataset, corpus.torch_stream):
            with pytest.raises(InputError, match=r"shuffle_seed is .*; expected a whole number"):
                kind(SIZE, shuffle_seed=seed)
    assert numbers([dataset[-1]]) == numbers([dataset[WINDOWS - 1]])
    for state, message in (
        ({}, "expected what state_dict"),
        (None, "expected what state_dict"),
        ({"position": -1, "windows": WINDOWS, "seed": 7}, "position is -1"),
        ({"position": 1, "windows": WINDOWS, "seed": 8}, "in the order of seed 8, and this is of"),
        ({"position": 1, "windows": WINDOWS + 1, "seed": 7}, f"of {WINDOWS + 1} windows"),
        ({"position": 1, "windows": 0, "seed": 7}, "windows is 0"),
        ({"position": 1, "windows": "37", "seed": 7}, "windows is '37'"),
        ({"position": 10**30, "windows": WINDOWS, "seed": 7}, "position is 1000"),
    ):
        for one in (dataset, corpus.torch_stream(SIZE, shuffle_seed=7)):
            with pytest.raises(InputError, match=message):
                one.load_state_dict(state)
    stream = corpus.torch_stream(SIZE, shuffle_seed=7, batch_size=4, epochs=1)
    for epoch in (-1, "1", 2**62):
        with pytest.raises(InputError, match="state: epoch is"):
            stream.load_state_dict({"position": 1, "windows": 11, "seed": 7, "epoch": epoch})
    assert sorted(numbers(stream)) == [*range(WINDOWS)]  # the refused states changed nothing
    stream.load_state_dict({"position": 2 * WINDOWS + 8, "windows": WINDOWS, "seed": 7})
    dataset.set_epoch(2)  # as in a dataset in its third epoch
    assert numbers(stream) == numbers(dataset[i] for i in range(8, WINDOWS))


def test_seeds_and_indices_of_any_whole_type(corpus: TokenCorpus) -> None:
    for seed in (0, -1, 2**70, np.int64(7), np.uint8(7)):
        dataset = corpus.torch_dataset(SIZE, shuffle_seed=seed)
        assert json.loads(json.dumps(dataset.state_dict()))["seed"] == int(seed)
        wanted = numbers([dataset[3]])
        assert (
            numbers(dataset[i] for i in (torch.tensor(3), np.int64(3), 3 - WINDOWS)) == wanted * 3
        )
        for one in (np.array([3]), torch.tensor([3]), range(3, 4)):
            assert numbers(dataset.__getitems__(one)) == wanted


def test_threads_may_read_one_dataset(tmp_path: Path) -> None:
    """Each thread reads another stretch of the order; stretches are computed one at a time."""
    corpus = numbered(tmp_path / "books", [3 * AT_ONCE], shard_bytes=1 << 20)
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    places = np.arange(0, 3 * AT_ONCE, 97)
    wanted = Shuffle(3 * AT_ONCE, 7)(places)

    def read(turn: int) -> None:
        for place in np.random.default_rng(turn).permutation(len(places))[:40].tolist():
            assert numbers(dataset.__getitems__([places[place]])) == [wanted[place]]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(8)))
    finally:
        sys.setswitchinterval(before)


def test_a_dataset_is_of_one_commit(tmp_path: Path) -> None:
    """A refresh of its corpus changes nothing, even in workers that start later."""
    corpus = numbered(tmp_path / "books", [5])
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7, packed=True)
    before = numbers(dataset[i] for i in range(5))
    with TokenCorpus.append(tmp_path / "books") as writer:
        writer.add_document(np.full(SIZE, 5))
    assert corpus.refresh()
    copy = pickle.loads(pickle.dumps(dataset))
    assert numbers(copy[i] for i in range(len(copy))) == before
    assert len(corpus.torch_dataset(SIZE)) == 6


def test_documents_stay_apart_in_packed_windows(tmp_path: Path) -> None:
    """Items are given as they are to a transformers model without a cache."""
    with TokenCorpus.create(tmp_path / "books", vocab_size=500) as writer:
        for document in ([5, 6, 7, 8], [9, 10, 11, 12], [13, 14]):
            writer.add_document(document)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    corpus = TokenCorpus.open(tmp_path / "books")
    dataset = corpus.torch_dataset(8, packed=True)
    batch = default_collate([dataset[0], dataset[1]])
    [streamed] = corpus.torch_stream(8, packed=True, epochs=1)
    with torch.no_grad():
        logits = model(**batch).logits
        for row, start, document in (
            (0, 0, [5, 6, 7, 8]),
            (0, 4, [9, 10, 11, 12]),
            (1, 0, [13, 14]),
        ):
            alone = model(torch.tensor([document])).logits[0]
            assert torch.allclose(logits[row, start : start + len(document)], alone, atol=1e-5)
    assert not model(**batch).loss.isnan()
    del streamed["position"]
    assert streamed.keys() == batch.keys()
    assert all(torch.equal(streamed[name], batch[name]) for name in batch)
