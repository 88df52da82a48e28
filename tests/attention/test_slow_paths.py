"""Slow paths of attention are logged for the operator, once per reason."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import DynamicCache

from tests.helpers.attention_inputs import tensors
from tests.helpers.models import chunked_logits, distinct, tiny
from transom import slow_paths
from transom.attention import attend, sliding
from transom.attention.huggingface import use_pattern
from transom.attention.kernels import products
from transom.kv import BoundedCache


@pytest.fixture(autouse=True)
def _nothing_logged_yet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(slow_paths, "_logged", set())
    caplog.set_level(logging.INFO, logger="transom.attention")


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "transom.attention"]
    assert all(record.levelno == logging.INFO for record in records)
    return [record.getMessage() for record in records]


@pytest.mark.parametrize("padded", [False, True])
def test_rows_of_different_lengths(padded: bool, caplog: pytest.LogCaptureFixture) -> None:
    mask = torch.ones(2, 90, dtype=torch.long)
    if padded:
        mask[0, :5] = 0
    model = tiny("llama")
    for _ in range(2):
        cache = BoundedCache("sinks:3,window=17", config=model.config)
        chunked_logits(model, distinct(2, 90), cache, [40, 50], mask)
    messages = logged(caplog)
    assert len(messages) == padded
    assert all("different lengths or padding" in message for message in messages)


def test_few_queries_need_no_blocks(caplog: pytest.LogCaptureFixture) -> None:
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    model = tiny("llama")
    cache = BoundedCache("sinks:3,window=17", config=model.config)
    chunked_logits(model, distinct(2, 12), cache, [11, 1], mask)
    assert not logged(caplog)


def test_eager_attention(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("llama")
    model.set_attn_implementation("eager")
    cache = BoundedCache("window:17", config=model.config)
    chunked_logits(model, distinct(1, 40), cache, [38, 1, 1])
    (message,) = logged(caplog)
    assert "eager attention" in message
    assert "set_attn_implementation('sdpa')" in message


def test_weights_under_a_pattern(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("llama")
    model.set_attn_implementation("eager")
    with use_pattern(model, sliding(5)), torch.no_grad():
        model(distinct(1, 12), use_cache=False)
        assert not logged(caplog)
        model(distinct(1, 12), use_cache=False, output_attentions=True)
    (message,) = logged(caplog)
    assert "output_attentions" in message


def test_the_default_is_no_slow_path(caplog: pytest.LogCaptureFixture) -> None:
    model, ids = tiny("llama"), distinct(2, 90)
    chunked_logits(model, ids, BoundedCache("sinks:3,window=17", config=model.config), [60, 1, 29])
    with use_pattern(model, sliding(9)):
        chunked_logits(model, ids, DynamicCache(), [60, 1, 29])
    assert not logged(caplog)


@pytest.mark.parametrize("slow", [False, True])
def test_half_precision_without_instructions(
    slow: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    halves = 2.0 if slow else 0.5
    monkeypatch.setattr(
        products, "_seconds", lambda dtype: 1.0 if dtype == torch.float32 else halves
    )
    for dtype in (torch.float32, torch.bfloat16, torch.bfloat16, torch.float16):
        attend(*(x.to(dtype) for x in tensors(1, 200, 200)), sliding(20))
    messages = logged(caplog)
    assert len(messages) == (2 if slow else 0)
    assert all("more slowly than float32" in message for message in messages)
