"""torchdata's StatefulDataLoader keeps the position in the state of each worker."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.helpers.numbered_corpus import SIZE, WINDOWS, numbered, numbers
from transom.corpus import TokenCorpus
from transom.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

WORKERS: list[dict[str, Any]] = [
    {},
    {"num_workers": 1},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 3, "prefetch_factor": 1, "snapshot_every_n_steps": 4},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    return numbered(tmp_path_factory.mktemp("corpora") / "books")


def through_disk(state: dict[str, Any], folder: Any) -> Any:
    torch.save(state, folder / "state")
    return torch.load(folder / "state")


@pytest.mark.parametrize("loader", WORKERS, ids=str)
@pytest.mark.parametrize(("epochs", "number"), [(1, 0), (2, 1), (None, 0)])
def test_a_stream_goes_on(
    corpus: TokenCorpus, tmp_path: Any, loader: dict[str, Any], epochs: int | None, number: int
) -> None:
    def made() -> tuple[Any, StatefulDataLoader[Any]]:
        stream = corpus.torch_stream(SIZE, batch_size=4, shuffle_seed=7, epochs=epochs)
        return stream, StatefulDataLoader(stream, batch_size=None, **loader)

    stream, batches = made()
    stream.set_epoch(number)
    whole = [*itertools.islice(batches, 30)]
    for stopped in (0, 5, len(whole)):
        stream, batches = made()
        stream.set_epoch(number)
        begun = [*itertools.islice(iter(batches), stopped)]
        state = through_disk(batches.state_dict(), tmp_path)
        stream, batches = made()
        batches.load_state_dict(state)
        rest = [*itertools.islice(iter(batches), 30 - stopped)]
        assert numbers(begun) + numbers(rest) == numbers(whole)
        assert [int(b["position"]) for b in rest] == [int(b["position"]) for b in whole[stopped:]]
        if epochs is not None and stopped < len(whole):
            stream.set_epoch(number)
            assert numbers(batches) == numbers(whole)  # the next pass is complete


@pytest.mark.parametrize("loader", WORKERS, ids=str)
def test_a_dataset_goes_on(corpus: TokenCorpus, tmp_path: Any, loader: dict[str, Any]) -> None:
    def made() -> tuple[Any, StatefulDataLoader[Any]]:
        dataset = corpus.torch_dataset(SIZE, shuffle_seed=7)
        return dataset, StatefulDataLoader(dataset, batch_size=4, **loader)

    for number, stopped in ((0, 3), (2, 7)):
        dataset, batches = made()
        dataset.set_epoch(number)
        whole = numbers(batches)
        begun = numbers(itertools.islice(iter(batches), stopped))
        state = through_disk(batches.state_dict(), tmp_path)
        dataset, batches = made()
        batches.load_state_dict(state)
        assert begun + numbers(batches) == whole
        dataset.set_epoch(number + 1)
        following = numbers(batches)
        assert sorted(following) == [*range(WINDOWS)]
        assert following != whole


def test_other_batches_or_ranks_are_refused(corpus: TokenCorpus) -> None:
    """States of workers fit one size of step only; those of `state_after` fit any."""

    def loader(**settings: Any) -> StatefulDataLoader[Any]:
        made = corpus.torch_stream(SIZE, shuffle_seed=7, epochs=1, **settings)
        return StatefulDataLoader(made, batch_size=None, num_workers=2)

    batches = loader(batch_size=4)
    begun = [*itertools.islice(iter(batches), 3)]
    state = batches.state_dict()
    for settings in ({"batch_size": 2}, {"batch_size": 4, "rank": 0, "ranks": 2}):
        other = loader(**settings)
        other.load_state_dict(state)
        with pytest.raises(InputError, match="took 4 windows in a step, and here a step takes"):
            next(iter(other))
    stream = corpus.torch_stream(SIZE, batch_size=2, shuffle_seed=7, epochs=1)
    stream.load_state_dict(stream.state_after(begun[-1]))
    rest = numbers(DataLoader(stream, batch_size=None, num_workers=3))
    assert sorted(numbers(begun) + rest) == [*range(WINDOWS)]
