from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from transom.errors import InputError
from transom.tokens import as_ids


@pytest.mark.parametrize(
    "ids",
    [
        [5, 6, 7],
        (5, 6, 7),
        range(5, 8),
        np.array([5, 6, 7], dtype=np.uint16),
        np.array([5, 6, 7], dtype=np.int32),
        torch.tensor([5, 6, 7]),
        torch.tensor([5, 6, 7], dtype=torch.uint8),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_values_that_hold_ids(ids: Any) -> None:
    assert as_ids(ids, 10).tolist() == [5, 6, 7]
    assert as_ids(ids, 10).dtype == np.int64


@pytest.mark.parametrize("ids", [[], (), range(0), np.array([]), torch.empty(0)], ids=str)
def test_an_empty_value_holds_no_ids(ids: Any) -> None:
    assert as_ids(ids, 10).shape == (0,)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 10], "range from 1 to 10; the vocabulary has 0 to 9"),
        ([-1, 4], "range from -1"),
        ([1.5], "float64"),
        ([float("nan")], "float64"),
        ([True], "bool"),
        ([[1, 2]], r"shape \(1, 2\)"),
        ([[1, 2], [3]], "cannot use list"),
        ([None], "object"),
        (["a"], "cannot use list of <U1"),
        (7, "shape"),
        (None, "NoneType"),
        (torch.tensor([[1, 2]]), r"shape \(1, 2\)"),
    ],
    ids=str,
)
def test_values_that_do_not_hold_ids_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_ids(ids, 10)
