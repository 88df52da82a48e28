"""Work that several threads share changes nothing in the user's own threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pytest
import torch

from transom.attention.kernels import workers
from transom.attention.kernels.one_core import can_use_one_core
from transom.attention.kernels.workers import share

CPU = torch.device("cpu")
T = TypeVar("T")

needs_one_core = pytest.mark.skipif(
    not can_use_one_core(), reason="this build of torch has no OpenMP, so no threads are started"
)


@pytest.fixture(autouse=True)
def three_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def in_a_new_thread(call: Callable[[], T]) -> T:
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


@needs_one_core
def test_each_worker_has_one_core_and_a_thread_that_starts_meanwhile_all() -> None:
    own, new, done = [], [], []

    def work(pieces: Iterable[int]) -> None:
        own.append(torch.get_num_threads())
        new.append(in_a_new_thread(torch.get_num_threads))
        done.extend(pieces)

    share(work, range(7), CPU)
    assert own == [1, 1, 1]
    assert new == [3, 3, 3]
    assert sorted(done) == [*range(7)]
    assert in_a_new_thread(torch.get_num_threads) == 3


def test_an_error_in_a_thread_is_raised_and_leaves_nothing_behind() -> None:
    def fail(pieces: Iterable[int]) -> None:
        raise ZeroDivisionError(f"{[*pieces]}")

    with pytest.raises(ZeroDivisionError):
        share(fail, [1, 2, 3], CPU)
    assert in_a_new_thread(torch.get_num_threads) == 3


@needs_one_core
def test_work_shared_by_a_worker_stays_in_its_thread() -> None:
    places = []

    def outer(pieces: Iterable[int]) -> None:
        here = threading.get_ident()
        share(lambda _: places.append((here, threading.get_ident())), [1, 2, 3], CPU)

    share(outer, [1, 2, 3], CPU)
    assert len(places) == 3
    assert all(outside == inside for outside, inside in places)


def test_with_one_core_nothing_is_started() -> None:
    def only(pieces: Iterable[int]) -> None:
        assert threading.get_ident() == here
        assert [*pieces] == [1, 2, 3]

    here = threading.get_ident()
    torch.set_num_threads(1)
    share(only, [1, 2, 3], CPU)
    torch.set_num_threads(3)


def test_where_a_thread_cannot_be_told_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "can_use_one_core", lambda: False)
    places = []
    share(lambda _: places.append(threading.get_ident()), [1, 2, 3], CPU)
    assert places == [threading.get_ident()]


@needs_one_core
def test_threads_that_share_at_once_keep_their_own_numbers() -> None:
    together = threading.Barrier(4)
    counts: dict[int, tuple[int, int]] = {}

    def user(cores: int) -> None:
        seen: list[int] = []

        def work(pieces: Iterable[int]) -> None:
            seen.append(torch.get_num_threads())

        torch.get_num_threads()
        together.wait()
        for _ in range(20):
            share(work, range(cores), CPU)
        counts[cores] = (max(seen), torch.get_num_threads())

    threads = [threading.Thread(target=user, args=(cores,)) for cores in (2, 3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == dict.fromkeys((2, 3, 4, 5), (1, 3))
