"""Patterns from FlexAttention's `mask_mod` functions show what FlexAttention shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import and_masks, create_mask, or_masks

from tests.helpers.models import chunked_logits, difference, tiny, tokens
from transom.attention import attend, causal, from_mask_mod, parse_pattern, sliding
from transom.attention.huggingface import use_pattern
from transom.attention.kernels.naive import naive
from transom.errors import InputError
from transom.kv import BoundedCache

BATCH, HEADS, LENGTH = 2, 4, 150
DOCUMENTS = torch.repeat_interleave(torch.arange(5), torch.tensor([40, 3, 60, 1, 46]))
PREFIXES = torch.tensor([10, 77])
REACHES = torch.tensor([1, 9, 40, 150])


def up_to_here(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return q_idx >= kv_idx


def close_by(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (q_idx - kv_idx <= 20) & (q_idx >= kv_idx)


def prefix_of_row(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (kv_idx < PREFIXES[b]) | (kv_idx <= q_idx)


def same_document(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return DOCUMENTS[q_idx] == DOCUMENTS[kv_idx]


def each_third(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (q_idx - kv_idx).remainder(3) == 0


def reach_of_head(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (q_idx - kv_idx).abs() < REACHES[h]


def neighbours_in_a_picture(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    q_x, q_y, k_x, k_y = q_idx // 12, q_idx % 12, kv_idx // 12, kv_idx % 12
    return ((q_x - k_x).abs() <= 2) & ((q_y - k_y).abs() <= 2)


def everyone(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return b.new_ones((), dtype=torch.bool)


def by_cases(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return torch.where(h % 2 == 0, q_idx >= kv_idx, torch.stack((q_idx, kv_idx)).sum(0) % 2 == b)


ALL = {"length": LENGTH}
MODS: list[tuple[Callable[..., Tensor], dict[str, int]]] = [
    (up_to_here, {}),
    (close_by, {}),
    (prefix_of_row, {"batch": BATCH}),
    (same_document, ALL),
    (and_masks(up_to_here, same_document), ALL),
    (or_masks(close_by, each_third), {}),
    (reach_of_head, {"heads": HEADS}),
    (neighbours_in_a_picture, {}),
    (everyone, {}),
    (by_cases, {"batch": BATCH, "heads": HEADS}),
]


@pytest.mark.parametrize(("mod", "given"), MODS, ids=lambda x: getattr(x, "__name__", ""))
def test_it_shows_what_flex_attention_shows(mod: Any, given: dict[str, int]) -> None:
    some = from_mask_mod(mod, **given)
    rows, heads = given.get("batch"), given.get("heads")
    expected = create_mask(mod, rows, heads, LENGTH, LENGTH, device="cpu")
    got = some.mask(LENGTH, batch=rows or 1, heads=heads or 1)
    assert torch.equal(got, expected)
    later = some.mask(30, LENGTH, batch=rows or 1, heads=heads or 1)
    assert torch.equal(later, expected[:, :, -30:])
    assert some.pairs(LENGTH) == pytest.approx(float(expected.float().mean()) * LENGTH**2)


@pytest.mark.parametrize("kernel", ["block_sparse", "dense"])
@pytest.mark.parametrize(("mod", "given"), MODS, ids=lambda x: getattr(x, "__name__", ""))
def test_kernels(mod: Any, given: dict[str, int], kernel: Any) -> None:
    torch.manual_seed(0)
    some = from_mask_mod(mod, **given)
    for q_len in (LENGTH, 1, 70):
        q = torch.randn(BATCH, HEADS, q_len, 8)
        k, v = torch.randn(2, BATCH, HEADS, LENGTH, 8)
        expected = naive(q, k, v, some, 0.3)
        got = attend(q, k, v, some, scale=0.3, kernel=kernel)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_flex_kernel() -> None:
    q, k, v = torch.randn(3, 1, HEADS, 256, 16)
    some = from_mask_mod(close_by)
    expected = naive(q, k, v, some, 0.25)
    got = attend(q, k, v, some, scale=0.25, kernel="flex")
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_it_combines_and_compares() -> None:
    one, other = from_mask_mod(up_to_here), from_mask_mod(close_by)
    assert one == from_mask_mod(up_to_here) != other
    assert hash(one) == hash(from_mask_mod(up_to_here))
    assert one != from_mask_mod(up_to_here, length=9)
    assert torch.equal((one & sliding(21)).mask(60), other.mask(60))
    assert torch.equal((causal() & ~one).mask(9), torch.zeros(1, 1, 9, 9, dtype=torch.bool))
    assert (one & from_mask_mod(reach_of_head, heads=HEADS)).heads == HEADS
    assert repr(one & sliding(3)) == "from_mask_mod(up_to_here) & sliding(3)"
    assert "from_mask_mod(up_to_here), 64 tokens" in str(one)
    with pytest.raises(InputError, match="takes a Python function, which has no text"):
        parse_pattern(repr(one))


def test_in_a_model_with_and_without_a_bounded_cache() -> None:
    model, ids = tiny("llama"), tokens(1, 60)
    some, same = from_mask_mod(close_by), sliding(21)
    found = []
    for pattern in (some, same):
        with use_pattern(model, pattern), torch.no_grad():
            whole = model(ids).logits
            cache = BoundedCache("sinks:3,window=30", config=model.config)
            found.append((whole, chunked_logits(model, ids, cache, [20, 1, 1, 38])))
    for mine, theirs in zip(*found, strict=True):
        assert difference(mine, theirs) < 1e-4


def test_it_may_be_made_on_another_default_device_and_in_inference_mode() -> None:
    with torch.inference_mode():
        some = from_mask_mod(same_document, length=LENGTH)
        inside = some.mask(LENGTH)
    assert torch.equal(inside, some.mask(LENGTH))


@pytest.mark.parametrize(
    ("mod", "given", "message"),
    [
        (3, {}, "mask_mod is 3; expected a function"),
        (causal(), {}, r"mask_mod is causal\(\); expected a function"),
        (lambda q, k: q >= k, {}, "raised TypeError"),
        (lambda b, h, q, k: q - k, {}, "gave torch.int64; expected a function"),
        (lambda b, h, q, k: True, {}, "expected a function .* gives a bool tensor"),
        (lambda b, h, q, k: k <= q if q > 1 else k < 0, {}, "does not branch on their values"),
        (lambda b, h, q, k: DOCUMENTS[q + 149] == 4, {}, "raised IndexError.*with length="),
        (up_to_here, {"length": 0}, "length is 0; expected at least 1"),
        (up_to_here, {"batch": 1.5}, "batch is 1.5"),
        (up_to_here, {"head": 2}, "heads"),
    ],
)
def test_mistakes(mod: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mask_mod(mod, **given)


def test_more_tokens_than_it_is_made_for_are_refused() -> None:
    some = from_mask_mod(same_document, length=LENGTH)
    with pytest.raises(InputError, match="made for 150 tokens"):
        some.mask(LENGTH + 1)
    with pytest.raises(InputError, match="made for 150 tokens"):
        (some & causal()).pairs(LENGTH + 1)
    unlimited = from_mask_mod(same_document)
    with pytest.raises(InputError, match="say with length= how many tokens"):
        unlimited.mask(LENGTH + 1)
