from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from transom.errors import InputError
from transom.sampling import Sampler

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def drawn(times: int = 2000, **settings: Any) -> Counter[int]:
    draw = Sampler(seed=1, **settings).start(torch.device("cpu"))
    return Counter(draw(LOGITS, []) for _ in range(times))


def test_greedy_by_default() -> None:
    assert set(drawn(5)) == {0}


def test_frequencies_follow_the_temperature() -> None:
    counts = drawn(temperature=1.0)
    assert counts[0] / 2000 == pytest.approx(0.5, abs=0.04)
    assert counts[3] / 2000 == pytest.approx(0.05, abs=0.02)
    assert drawn(temperature=0.5)[0] > counts[0]


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-38, 1e-20])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    assert set(drawn(5, temperature=temperature)) == {0}


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.75}, {0, 1}), ({"min_p": 0.2}, {0, 1, 2})],
)
def test_filters(settings: dict[str, Any], allowed: set[int]) -> None:
    assert set(drawn(temperature=1.0, **settings)) == allowed


def test_repetition_penalty_needs_no_temperature() -> None:
    draw = Sampler(repetition_penalty=5.0).start(torch.device("cpu"))
    assert draw(LOGITS, []) == 0
    assert draw(LOGITS, [0]) == 1


def test_a_seed_repeats() -> None:
    assert drawn(50, temperature=1.0) == drawn(50, temperature=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "expected 0 or more"),
        ({"temperature": float("nan")}, "expected a number"),
        ({"top_k": 5}, "temperature is 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampler(**settings).start(torch.device("cpu"))


@pytest.mark.parametrize("seed", [True, 1.5, "7", -1, 2**63, 2**70])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(InputError, match=r"seed is .*expected a whole number"):
        Sampler(seed=seed)


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty", "top_k"])
@pytest.mark.parametrize("value", ["0.7", True, [1], float("nan"), float("inf")])
def test_settings_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is"):
        Sampler(**{"temperature": 1.0, name: value})


@pytest.mark.parametrize("temperature", [None, -1.0, 10**400])
def test_a_temperature_is_0_or_more(temperature: Any) -> None:
    with pytest.raises(InputError, match="temperature is"):
        Sampler(temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 1e-320])
def test_the_coldest_temperatures_take_the_likeliest(temperature: float) -> None:
    draw = Sampler(temperature=temperature).start(torch.device("cpu"))
    assert draw(torch.tensor([100.0, -100.0]), []) == 0
