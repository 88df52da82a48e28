"""Passes over one loader are the same for any number of workers, persistent or not."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.helpers.forking import in_a_fork
from tests.helpers.numbered_corpus import SIZE, WINDOWS, numbered, numbers
from transom.corpus import TokenCorpus
from transom.errors import InputError
from transom.torch_data import WindowDataset, WindowStream
from transom.torch_data.shared import SharedNumbers

# These tests need more workers than cores, and forked workers need no threads of the parent.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]

LOADERS: dict[str, dict[str, Any]] = {
    "no workers": {},
    "1 worker": {"num_workers": 1},
    "3 workers": {"num_workers": 3, "prefetch_factor": 3},
    "2 persistent": {"num_workers": 2, "persistent_workers": True},
}
SPAWNED = {
    "num_workers": 1,
    "persistent_workers": True,
    "multiprocessing_context": "spawn",
}
loaders = pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    return numbered(tmp_path_factory.mktemp("corpora") / "books")


def of_stream(corpus: TokenCorpus, **settings: Any) -> WindowStream:
    return corpus.torch_stream(
        SIZE, **{"batch_size": 4, "shuffle_seed": 7, "epochs": 1, **settings}
    )


def of_dataset(corpus: TokenCorpus, **settings: Any) -> WindowDataset:
    return corpus.torch_dataset(SIZE, shuffle_seed=7, **settings)


def epoch(corpus: TokenCorpus, number: int) -> list[int]:
    """The order of an epoch in a dataset without a loader."""
    dataset = of_dataset(corpus)
    dataset.set_epoch(number)
    return numbers(dataset[i] for i in range(WINDOWS))


@loaders
def test_each_pass_of_a_stream_starts_anew(corpus: TokenCorpus, loader: dict[str, Any]) -> None:
    """Also after a pass that was not finished."""
    stream = of_stream(corpus)
    batches = DataLoader(stream, batch_size=None, **loader)
    wanted = epoch(corpus, 0)
    assert numbers(batches) == wanted
    for taken in (1, 3):
        assert numbers(itertools.islice(batches, taken)) == wanted[: 4 * taken]
    assert numbers(batches) == wanted
    endless = DataLoader(of_stream(corpus, epochs=None), batch_size=None, **loader)
    for _ in range(2):
        assert numbers(itertools.islice(endless, 11)) == (wanted + epoch(corpus, 1))[:44]


@loaders
def test_a_loaded_place_is_where_one_pass_starts(
    corpus: TokenCorpus, loader: dict[str, Any]
) -> None:
    stream = of_stream(corpus)
    batches = DataLoader(stream, batch_size=None, **loader)
    wanted = epoch(corpus, 0)
    for _ in range(2):
        state = stream.state_after([*itertools.islice(batches, 3)][-1])
        stream.load_state_dict(json.loads(json.dumps(state)))
        assert stream.state_dict() == state
        assert numbers(batches) == wanted[12:]
        assert numbers(batches) == wanted
    other = DataLoader(stream, batch_size=None, num_workers=2)
    assert numbers(other) == wanted  # another loader has started its pass there already


def test_a_loader_that_draws_the_same_seeds_takes_the_place_once(corpus: TokenCorpus) -> None:
    stream = of_stream(corpus)
    stream.load_state_dict({"position": 12, "windows": WINDOWS, "seed": 7})
    found = []
    for _ in range(2):
        seeded = torch.Generator().manual_seed(0)
        found.append(numbers(DataLoader(stream, batch_size=None, num_workers=2, generator=seeded)))
    assert found == [epoch(corpus, 0)[12:], epoch(corpus, 0)]


def test_more_workers_that_draw_the_same_seeds_do_not_take_it(corpus: TokenCorpus) -> None:
    stream = of_stream(corpus)
    stream.load_state_dict({"position": 8, "windows": WINDOWS, "seed": 7})
    wanted = epoch(corpus, 0)
    for workers, place in ((1, 8), (2, 0)):
        torch.manual_seed(0)
        assert numbers(DataLoader(stream, batch_size=None, num_workers=workers)) == wanted[place:]


@loaders
@pytest.mark.parametrize("epochs", [1, 2])
def test_epochs_of_a_stream(corpus: TokenCorpus, loader: dict[str, Any], epochs: int) -> None:
    """A pass has several epochs, and `set_epoch` counts passes."""
    stream = of_stream(corpus, epochs=epochs)
    batches = DataLoader(stream, batch_size=None, **loader)
    for number in (0, 1, 3):
        stream.set_epoch(number)
        each = [epoch(corpus, number * epochs + further) for further in range(epochs)]
        assert numbers(batches) == [*itertools.chain(*each)]
    stream.set_epoch(2)
    begun = [*itertools.islice(batches, 2)]
    state = stream.state_after(begun[-1])
    other = of_stream(corpus, epochs=epochs)
    other.load_state_dict(json.loads(json.dumps(state)))
    stream.set_epoch(2)
    whole = numbers(batches)
    assert numbers(begun) + numbers(DataLoader(other, batch_size=None, **loader)) == whole
    assert numbers(other) == whole


@loaders
def test_epochs_and_places_of_a_dataset(corpus: TokenCorpus, loader: dict[str, Any]) -> None:
    dataset = of_dataset(corpus)
    batches = DataLoader(dataset, batch_size=5, **loader)
    for number in (0, 1, 2, 0):
        dataset.set_epoch(number)
        assert numbers(batches) == epoch(corpus, number)
    dataset.set_epoch(1)
    state = dataset.state_dict(taken=10)
    assert numbers(itertools.islice(batches, 2)) == epoch(corpus, 1)[:10]
    dataset.load_state_dict(json.loads(json.dumps(state)))
    dataset.set_epoch(1)  # trainers do this before each epoch
    dataset.set_epoch(1)
    assert numbers(batches) == epoch(corpus, 1)[10:]
    dataset.set_epoch(2)
    assert numbers(batches) == epoch(corpus, 2)


def test_spawned_workers_that_live_on(corpus: TokenCorpus) -> None:
    dataset, stream = of_dataset(corpus), of_stream(corpus)
    batches = DataLoader(dataset, batch_size=5, **SPAWNED)
    streamed = DataLoader(stream, batch_size=None, **SPAWNED)
    for number in (0, 2):
        dataset.set_epoch(number)
        stream.set_epoch(number)
        assert numbers(batches) == numbers(streamed) == epoch(corpus, number)
    stream.load_state_dict(stream.state_after([*streamed][2]))
    assert numbers(streamed) == epoch(corpus, 2)[12:]
    assert numbers(streamed) == epoch(corpus, 2)


def test_workers_that_live_on_follow_a_state_of_a_smaller_corpus(corpus: TokenCorpus) -> None:
    state = {"position": 3, "windows": 11, "seed": 7}
    found = []
    for loader in ({}, LOADERS["2 persistent"]):
        dataset = of_dataset(corpus)
        batches = DataLoader(dataset, batch_size=4, **loader)
        assert len(numbers(batches)) == WINDOWS
        dataset.load_state_dict(state)
        found.append(numbers(batches))
    assert found[0] == found[1]
    assert len(found[0]) == 8


def test_a_place_that_nobody_used_is_not_lost(corpus: TokenCorpus) -> None:
    for one in (of_dataset(corpus), of_stream(corpus)):
        one.load_state_dict({"position": 2 * WINDOWS + 4, "windows": WINDOWS, "seed": 7})
        with pytest.raises(
            InputError, match=r"state of epoch 2 was loaded .* set_epoch\(0\) would"
        ):
            one.set_epoch(0)
        one.set_epoch(2)
        for _ in DataLoader(one, batch_size=None):
            break
        one.set_epoch(0)
        assert one.state_dict()["position"] == 0
        one.load_state_dict({"position": 4, "windows": WINDOWS, "seed": 7})
        one.set_epoch(1)  # the rest of an epoch may be skipped
        assert numbers(DataLoader(one, batch_size=None)) == epoch(corpus, 1)


def test_the_state_after_a_whole_pass(corpus: TokenCorpus) -> None:
    """Nothing is left of a pass of a stream; a dataset goes on with the next epoch."""
    stream = of_stream(corpus)
    state = stream.state_after([*stream][-1])
    assert state == stream.state_dict()
    again = of_stream(corpus)
    again.load_state_dict(state)
    assert [*again] == []
    assert numbers(again) == epoch(corpus, 0)
    again.load_state_dict(state)
    again.set_epoch(1)
    assert numbers(again) == epoch(corpus, 1)
    dataset = of_dataset(corpus)
    dataset.load_state_dict(state)
    assert numbers(dataset[i] for i in range(len(dataset))) == epoch(corpus, 1)


def test_a_stream_does_not_guess_how_far_its_workers_are(corpus: TokenCorpus) -> None:
    stream = of_stream(corpus)
    batches = [*DataLoader(stream, batch_size=None, num_workers=1)]
    with pytest.raises(InputError, match=r"batches come from workers.*state_after"):
        stream.state_dict()
    stream.load_state_dict(stream.state_after(batches[1]))
    assert stream.state_dict()["position"] == 8
    next(iter(stream))
    assert stream.state_dict()["position"] == 12


def test_batches_are_not_batched_again(corpus: TokenCorpus) -> None:
    stream = of_stream(corpus)
    for loader in (DataLoader(stream), DataLoader(stream, batch_size=4, num_workers=1)):
        with pytest.raises(InputError, match="batch_size=None"):
            next(iter(loader))

    class Rows(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            for batch in stream:
                yield from ({"input_ids": row} for row in batch["input_ids"])

    assert numbers(DataLoader(Rows(), batch_size=5)) == epoch(corpus, 0)


def test_copies_have_places_of_their_own(corpus: TokenCorpus) -> None:
    dataset = of_dataset(corpus)
    dataset.set_epoch(1)
    copies = [copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))]
    copies[0].set_epoch(2)
    for one, number in ((copies[0], 2), (copies[1], 1), (dataset, 1)):
        loader = DataLoader(one, batch_size=5, **LOADERS["2 persistent"])
        assert numbers(loader) == epoch(corpus, number)
        one.set_epoch(3)
        assert numbers(loader) == epoch(corpus, 3)


def test_modes_of_torch_make_no_difference(corpus: TokenCorpus) -> None:
    wanted = epoch(corpus, 0)
    with torch.device("meta"):
        stream = of_stream(corpus)
        assert numbers(stream) == wanted
    with torch.inference_mode():
        dataset = of_dataset(corpus)
        dataset.set_epoch(1)
    dataset.set_epoch(0)
    for one, size in ((stream, None), (dataset, 4)):
        assert numbers(DataLoader(one, batch_size=size, **LOADERS["2 persistent"])) == wanted


def test_a_process_that_is_no_worker_has_numbers_of_its_own() -> None:
    """For example another rank that was given the same dataset."""
    shared = SharedNumbers(start=1)

    def change() -> int:
        shared["start"] = 5
        return shared["start"]

    assert in_a_fork(change) == 5
    assert shared["start"] == 1
