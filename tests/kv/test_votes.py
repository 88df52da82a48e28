"""Which blocks are looked for, in small cases and beside the obvious."""

from __future__ import annotations

import math

import torch

from transom.kv.recall.votes import (
    best_scores,
    elect,
    keenest,
    moments,
    representatives,
    votes,
)


def test_a_block_is_found_by_the_keys_farthest_from_their_mean() -> None:
    keys = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [0.0, -7.0], [0.0, 0.1]])
    assert representatives(keys, 2).tolist() == [[5.0, 0.0], [0.0, -7.0]]  # in their order
    assert torch.equal(representatives(keys, 5), keys.bfloat16())


def test_keys_equally_far_are_taken_newest_first() -> None:
    keys = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert representatives(keys, 3).tolist() == keys[1:].tolist()


def test_equal_votes_go_to_the_most_recent() -> None:
    tally = torch.tensor([0.5, 0.25, 0.5, 0.5, 0.0]).bfloat16()
    recency = torch.tensor([3, 4, 0, 1, 2])  # a ring, in which the oldest is third
    assert elect(tally, recency, 2).tolist() == [0, 3]
    assert elect(tally, recency, 4).tolist() == [0, 3, 2, 1]


def test_votes_are_the_attention_a_block_would_get() -> None:
    torch.manual_seed(0)
    rows, heads, queries, blocks, count, dim = 2, 3, 5, 7, 4, 16
    asked = torch.randn(rows, heads, queries, dim).bfloat16().float()
    found_by = torch.randn(rows, heads, count, blocks, dim).bfloat16()
    sums = torch.randn(rows, heads, queries)
    got = votes(best_scores(asked, found_by, 0.25), sums).float()
    for row in range(rows):
        for head in range(heads):
            for block in range(blocks):
                shares = [
                    torch.sigmoid(0.25 * (q @ k) - s)
                    for q, s in zip(asked[row, head], sums[row, head], strict=True)
                    for k in found_by[row, head, :, block].float()
                ]
                assert abs(float(got[row, head, block]) - float(max(shares))) < 0.01


def test_the_keenest_queries_are_those_that_would_find_most() -> None:
    """By the expected best score; among many keys that is close to the best there is."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 1, 4000, 8, generator=generator) * torch.arange(1, 9) + 0.3
    queries = torch.randn(1, 1, 2, 20, 8, generator=generator)
    sums = 5 * torch.randn(1, 1, 2, 20, generator=generator)
    chosen = keenest(queries, sums, moments(keys), 4000, 0.5, 6)
    mean, spread = keys[0, 0].mean(0), keys[0, 0].var(0, correction=0)
    for chunk in range(2):
        hopes = []
        for query, seen in zip(queries[0, 0, chunk], sums[0, 0, chunk], strict=True):
            deviation = math.sqrt(float(query.square() @ spread))
            best = float(query @ mean) + math.sqrt(2 * math.log(4000)) * deviation
            hopes.append(0.5 * best - float(seen))
        expected = sorted(range(20), key=lambda place: -hopes[place])[:6]
        assert chosen[0, 0, chunk].tolist() == expected
        found = 0.5 * (queries[0, 0, chunk] @ keys[0, 0].T).amax(1) - sums[0, 0, chunk]
        assert len({*found.topk(4).indices.tolist()} & {*expected}) >= 3


def test_few_queries_all_vote() -> None:
    queries, sums = torch.randn(1, 2, 1, 3, 4), torch.randn(1, 2, 1, 3)
    chosen = keenest(queries, sums, moments(torch.randn(1, 2, 10, 4)), 10, 1.0, 8)
    assert chosen.sort(-1).values.tolist() == [[[[0, 1, 2]], [[0, 1, 2]]]]


def test_moments_add_up() -> None:
    keys = torch.randn(2, 6, 4)
    together = moments(keys[:, :2]) + moments(keys[:, 2:])
    torch.testing.assert_close(together, torch.stack((keys.sum(1), keys.square().sum(1)), dim=1))
