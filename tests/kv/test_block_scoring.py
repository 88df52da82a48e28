"""Votes for blocks: small cases by hand, and comparisons with slow code."""

from __future__ import annotations

import math

import torch

from transom.attention.score_rule import ScoreRule
from transom.kv.recall.scoring import basis, elect, hopes, moments, representatives, shares


def test_a_block_is_found_by_the_keys_farthest_from_their_mean() -> None:
    keys = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [0.0, -7.0], [0.0, 0.1]])
    assert representatives(keys, 2).tolist() == [[5.0, 0.0], [0.0, -7.0]]  # in their order
    assert torch.equal(representatives(keys, 5), keys)


def test_keys_equally_far_are_taken_newest_first() -> None:
    keys = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert representatives(keys, 3).tolist() == keys[1:].tolist()


def test_equal_votes_go_to_the_most_recent() -> None:
    tally = torch.tensor([0.5, 0.25, 0.5, 0.5, 0.0]).bfloat16()
    recency = torch.tensor([3, 4, 0, 1, 2])  # a ring, in which the oldest is third
    assert elect(tally, recency, 2).tolist() == [0, 3]
    assert elect(tally, recency, 4).tolist() == [0, 3, 2, 1]


def test_shares_are_the_attention_a_block_would_get() -> None:
    torch.manual_seed(0)
    queries, blocks, count, dim = 150, 7, 4, 16
    asked, sums = torch.randn(queries, dim), torch.randn(queries)
    found_by = torch.randn(blocks, count, dim)
    got = shares(asked, sums, found_by.permute(1, 2, 0), ScoreRule(0.25))
    for one, query in enumerate(asked):
        for block, keys in enumerate(found_by):
            expected = max(torch.sigmoid(0.25 * (query @ key) - sums[one]) for key in keys)
            assert abs(float(got[one, block]) - float(expected)) < 1e-5


def test_hopes_are_what_the_best_key_is_expected_to_get() -> None:
    """Against the mean and spread of all scores, and against the best score among many keys."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 3, 4000, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    queries = torch.randn(2, 3, 20, 8, generator=generator)
    sums = 5 * torch.randn(2, 3, 20, generator=generator)
    got = hopes(queries, sums, moments(keys), 4000, ScoreRule(0.5))
    scores = queries @ keys.transpose(2, 3)
    best = scores.mean(3) + math.sqrt(2 * math.log(4000)) * scores.std(3, correction=0)
    torch.testing.assert_close(got, 0.5 * best - sums, rtol=1e-3, atol=1e-3)
    found = 0.5 * scores.amax(3) - sums
    assert float((got < found).float().mean()) < 0.1  # rather a bit too high
    assert float((got - found).abs().mean()) < 0.4 * float(found.std())


def test_the_basis_keeps_what_is_large() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(50, 3, generator=generator) @ torch.randn(3, 8, generator=generator)
    directions = basis(moments(keys), 4)
    assert directions.shape == (8, 4)
    torch.testing.assert_close(keys @ directions @ directions.T, keys, rtol=1e-3, atol=1e-3)
    assert int((directions.norm(dim=0) > 0).sum()) == 3  # and none where there is nothing


def test_moments_add_up() -> None:
    keys = torch.randn(2, 6, 4)
    together = moments(keys[:, :2]) + moments(keys[:, 2:])
    torch.testing.assert_close(together, moments(keys))
    torch.testing.assert_close(together[:, 0], keys.sum(1))
    torch.testing.assert_close(together[:, 1:], keys.transpose(1, 2) @ keys)
