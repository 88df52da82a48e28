"""Slow paths are logged for the operator, once per reason."""

from __future__ import annotations

import logging

import pytest
import torch

from tests.helpers.models import chunked_logits, distinct, tiny
from transom import slow_paths
from transom.kv import BoundedCache


@pytest.fixture(autouse=True)
def _nothing_logged_yet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(slow_paths, "_logged", set())
    caplog.set_level(logging.INFO, logger="transom.kv")


@pytest.mark.parametrize("policy", ["snapkv:20", "sinks:3,window=97,kv=int8"])
def test_rows_of_different_lengths(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    model, ids = tiny("llama"), distinct(2, 40)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[0, :5] = 0
    for _ in range(2):
        cache = BoundedCache(policy, config=model.config)
        chunked_logits(model, ids, cache, [30, 1, 9], mask)
    (record,) = [record for record in caplog.records if record.name == "transom.kv"]
    assert record.levelno == logging.INFO
    assert "different lengths or padding" in record.getMessage()


@pytest.mark.parametrize("policy", ["snapkv:20", "sinks:3,window=97,kv=int8", "sinks:3,window=17"])
@pytest.mark.parametrize("rows", [1, 2])
def test_rows_of_one_length(policy: str, rows: int, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("llama")
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, distinct(rows, 40), cache, [30, 1, 9])
    assert not [record for record in caplog.records if record.name == "transom.kv"]


def test_one_padded_row(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing that another row would wait for."""
    model, mask = tiny("llama"), torch.ones(1, 40, dtype=torch.long)
    mask[0, :5] = 0
    cache = BoundedCache("snapkv:20", config=model.config)
    chunked_logits(model, distinct(1, 40), cache, [40], mask)
    assert not [record for record in caplog.records if record.name == "transom.kv"]
