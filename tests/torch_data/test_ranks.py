"""All ranks together have every window once an epoch, whoever shares them, or it is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.state import GradientState, PartialState
from torch import distributed, multiprocessing
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, random_split
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from tests.helpers.numbered_corpus import SIZE, WINDOWS, numbered, numbers
from transom.corpus import TokenCorpus
from transom.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]

WORKERS: list[dict[str, Any]] = [{}, {"num_workers": 2, "persistent_workers": True}]
Enter = Callable[[int, int], None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    return numbered(tmp_path_factory.mktemp("corpora") / "books")


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Enter]:
    """While open, this process is one of several ranks, according to `torch.distributed`."""

    def enter(rank: int, ranks: int) -> None:
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_rank", lambda group=None: rank)
        monkeypatch.setattr(distributed, "get_world_size", lambda group=None: ranks)

    yield enter
    PartialState._reset_state()
    GradientState._reset_state()


def by_itself(dataset: Any, rank: int, ranks: int, **loader: Any) -> Any:
    return DataLoader(dataset, batch_size=4, **loader)


def by_sampler(dataset: Any, rank: int, ranks: int, **loader: Any) -> Any:
    sampler = DistributedSampler(dataset, shuffle=True)  # Lightning adds this sampler by itself
    return DataLoader(dataset, batch_size=4, sampler=sampler, **loader)


def by_stateful_sampler(dataset: Any, rank: int, ranks: int, **loader: Any) -> Any:
    sampler = StatefulDistributedSampler(dataset, shuffle=False)
    return DataLoader(dataset, batch_size=4, sampler=sampler, **loader)


def by_accelerate(dataset: Any, rank: int, ranks: int, **loader: Any) -> Any:
    return prepare_data_loader(
        DataLoader(dataset, batch_size=4, **loader),
        num_processes=ranks,
        process_index=rank,
        put_on_device=False,
    )


def by_accelerate_at_random(dataset: Any, rank: int, ranks: int, **loader: Any) -> Any:
    return prepare_data_loader(
        DataLoader(dataset, batch_size=4, shuffle=True, **loader),
        num_processes=ranks,
        process_index=rank,
        put_on_device=False,
        use_seedable_sampler=True,
        data_seed=3,
    )


WAYS = [by_itself, by_sampler, by_stateful_sampler, by_accelerate, by_accelerate_at_random]


@pytest.mark.parametrize("loader", WORKERS, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("early", [False, True], ids=["made in the group", "made before it"])
def test_every_window_comes(
    corpus: TokenCorpus, enter: Enter, way: Any, loader: dict[str, Any], early: bool
) -> None:
    made = [corpus.torch_dataset(SIZE, shuffle_seed=7) for _ in range(2)] if early else None
    taken: list[list[list[int]]] = []
    for rank in range(2):
        enter(rank, 2)
        dataset = made[rank] if made else corpus.torch_dataset(SIZE, shuffle_seed=7)
        batches = way(dataset, rank, 2, **loader)
        taken.append([])
        for number in range(2):
            dataset.set_epoch(number)
            taken[rank].append(numbers(batches))
    for one, other in zip(*taken, strict=True):
        assert {*one, *other} == {*range(WINDOWS)}
        if way is by_itself:
            assert len(one) + len(other) == WINDOWS
        else:
            assert len(one) == len(other)  # these repeat a few windows, as they document
    assert taken[0][0] != taken[0][1]


@pytest.mark.parametrize("way", [by_sampler, by_accelerate], ids=lambda way: way.__name__)
def test_a_share_that_was_given_is_not_shared_again(
    corpus: TokenCorpus, enter: Enter, way: Any
) -> None:
    enter(0, 2)
    with pytest.raises(
        InputError, match=r"share among 2 processes what is already the share of one process of 2"
    ):
        numbers(way(corpus.torch_dataset(SIZE, rank=0, ranks=2), 0, 2))
    whole = corpus.torch_dataset(SIZE, rank=0, ranks=1)
    assert len({*numbers(way(whole, 0, 2))}) in (19, 20)


@pytest.mark.parametrize("way", [by_sampler, by_accelerate], ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    "around",
    [
        lambda dataset: random_split(dataset, [0.7, 0.3])[0],  # as one splits before training
        lambda dataset: ConcatDataset([dataset]),
    ],
    ids=["split", "joined"],
)
def test_what_is_made_of_a_share_is_not_shared_again(
    corpus: TokenCorpus, enter: Enter, around: Any, way: Any
) -> None:
    enter(0, 2)
    part = around(corpus.torch_dataset(SIZE))
    spawned = {"num_workers": 1, "multiprocessing_context": "spawn"}
    for loader in ({}, {"num_workers": 1}, spawned):
        with pytest.raises(InputError, match=r"what is already the share of one process of 2"):
            numbers(way(part, 0, 2, **loader))
    assert len(numbers(by_itself(part, 0, 2))) == len(part)
    whole = around(corpus.torch_dataset(SIZE, rank=0, ranks=1))
    assert len(numbers(way(whole, 0, 2))) >= len(whole) // 2


def test_nodes_may_share_and_processes_share_again(corpus: TokenCorpus, enter: Enter) -> None:
    """4 processes on 2 nodes: the dataset shares among nodes, a sampler within each node."""
    taken = []
    for rank in range(4):
        enter(rank, 4)
        dataset = corpus.torch_dataset(SIZE, rank=rank // 2, ranks=2)
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank % 2, shuffle=False)
        taken.append(numbers(DataLoader(dataset, batch_size=4, sampler=sampler)))
    assert {*chain(*taken)} == {*range(WINDOWS)}
    assert max(map(len, taken)) == 10


def test_the_place_counts_what_all_processes_have_taken(corpus: TokenCorpus, enter: Enter) -> None:
    enter(0, 2)
    for way in (by_itself, by_accelerate):
        dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
        len(way(dataset, 0, 2))
        assert dataset.state_dict(taken=3)["position"] == 6


def test_a_sampler_that_counted_items_does_not_go_on_in_an_epoch(
    corpus: TokenCorpus, enter: Enter
) -> None:
    enter(0, 2)
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    batches = by_sampler(dataset, 0, 2)
    state = dataset.state_dict(taken=4)
    dataset.load_state_dict(state)
    with pytest.raises(InputError, match="DistributedSampler counts items when it is made"):
        next(iter(batches))
    with pytest.raises(InputError, match="DistributedSampler counts items when it is made"):
        by_sampler(dataset, 0, 2)
    assert len(numbers(by_accelerate(dataset, 0, 2))) in (
        14,
        16,
    )  # Accelerate counts the items again


@pytest.mark.parametrize("loader", WORKERS, ids=str)
@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 4), (3, 2), (4, 8), (5, 1), (40, 4)])
@pytest.mark.parametrize("drop", [False, True])
def test_no_batch_is_empty(
    corpus: TokenCorpus, loader: dict[str, Any], ranks: int, batch_size: int, drop: bool
) -> None:
    """With `drop_uneven`, all ranks have equally many batches of equally many windows."""
    if loader and ranks > 4:
        loader = {}  # with workers there would be too many processes
    sizes: list[list[int]] = []
    taken: list[int] = []
    if drop and ranks * batch_size > WINDOWS:
        stream = corpus.torch_stream(
            SIZE, batch_size=batch_size, epochs=1, rank=0, ranks=ranks, drop_uneven=True
        )
        with pytest.raises(InputError, match=f"{WINDOWS} windows .* fill no step of {ranks}"):
            next(iter(DataLoader(stream, batch_size=None, **loader)))
        return
    for rank in range(ranks):
        stream = corpus.torch_stream(
            SIZE, batch_size=batch_size, epochs=1, rank=rank, ranks=ranks, drop_uneven=drop
        )
        batches = [*DataLoader(stream, batch_size=None, **loader)]
        sizes.append([len(batch["input_ids"]) for batch in batches])
        taken += numbers(batches)
    assert all(chain(*sizes))
    whole = WINDOWS // (ranks * batch_size)
    if drop:
        assert sizes == [[batch_size] * whole] * ranks
        assert len({*taken}) == len(taken)
    else:
        assert sorted(taken) == [*range(WINDOWS)]
        assert all(size[:whole] == [batch_size] * whole for size in sizes)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 37])
def test_ranks_of_a_dataset_may_be_made_even(corpus: TokenCorpus, ranks: int) -> None:
    shares = [
        corpus.torch_dataset(SIZE, shuffle_seed=7, rank=rank, ranks=ranks, drop_uneven=True)
        for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {WINDOWS // ranks}
    taken = [n for share in shares for n in numbers(share[i] for i in range(len(share)))]
    assert len({*taken}) == len(taken)
    for share in shares:  # windows that nobody takes do not make an epoch longer
        share.load_state_dict(share.state_dict(taken=WINDOWS // ranks))
        assert len(share) == WINDOWS // ranks
        share.set_epoch(1)
    few = corpus.torch_dataset(SIZE, rank=0, ranks=WINDOWS + 1, drop_uneven=True)
    with pytest.raises(InputError, match="37 windows are too few to give each of 38 ranks an item"):
        len(few)


def test_uneven_ranks_are_told_once(
    corpus: TokenCorpus, enter: Enter, caplog: pytest.LogCaptureFixture
) -> None:
    enter(1, 2)
    with caplog.at_level(logging.WARNING, logger="transom"):
        for made in (
            corpus.torch_dataset(SIZE, drop_uneven=True),
            corpus.torch_stream(SIZE, batch_size=4, epochs=1, drop_uneven=True),
            corpus.torch_stream(SIZE),  # a stream without an end cannot be uneven
        ):
            next(iter(DataLoader(made, batch_size=None)))
        assert not caplog.records
        dataset = corpus.torch_dataset(SIZE)
        assert len(dataset) == len(dataset) == WINDOWS // 2
        stream = corpus.torch_stream(SIZE, batch_size=4, epochs=1)
        assert len([*stream]) == len([*stream]) == 5
    assert len(caplog.records) == 2
    assert all("drop_uneven=True" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("loader", WORKERS, ids=str)
def test_accelerate_does_not_share_a_stream_again(
    corpus: TokenCorpus, enter: Enter, loader: dict[str, Any]
) -> None:
    enter(0, 2)
    stream = corpus.torch_stream(SIZE, batch_size=4, epochs=1)
    plain = DataLoader(stream, batch_size=None, **loader)
    dispatched = prepare_data_loader(plain, torch.device("cpu"), 1, 0, put_on_device=True)
    with pytest.raises(InputError, match=r"without prepare\(\)"):
        next(iter(dispatched))
    batched = DataLoader(stream, batch_size=2, **loader)
    shared = prepare_data_loader(batched, num_processes=2, process_index=0, put_on_device=False)
    with pytest.raises(InputError, match="IterableDatasetShard would share among 2 processes"):
        next(iter(shared))


def run(rank: int, given: list[Any], store: str, taken: Any) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    corpus = TokenCorpus.open(given[0].path)
    found = []
    for one, size in zip(
        given[1:], (4, None), strict=True
    ):  # made before the process group, and given to all ranks
        workers = {"num_workers": 1, "persistent_workers": True}
        found.append(numbers(DataLoader(one, batch_size=size, **workers)))
    for way in (by_itself, by_sampler, by_accelerate):
        spawned = {"num_workers": 1, "multiprocessing_context": "spawn"}
        for loader in ({}, spawned) if way is by_itself else ({},):
            dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
            found.append(numbers(way(dataset, rank, 2, **loader)))
            if way is by_itself:
                stream = corpus.torch_stream(SIZE, batch_size=4, epochs=1, shuffle_seed=7)
                found.append(numbers(DataLoader(stream, batch_size=None, **loader)))
    taken.put((rank, found))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_in_a_process_group(
    tmp_path: Path, corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    taken = multiprocessing.get_context("spawn").SimpleQueue()
    dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
    stream = corpus.torch_stream(SIZE, batch_size=4, shuffle_seed=7, epochs=1)
    given = [corpus, dataset, stream]
    multiprocessing.spawn(run, (given, str(tmp_path / "store"), taken), nprocs=2)
    ranks = dict(taken.get() for _ in range(2))
    assert len(ranks[0]) == 8
    for one, other in zip(ranks[0], ranks[1], strict=True):
        assert {*one, *other} == {*range(WINDOWS)}
        assert one != other
