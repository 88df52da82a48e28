"""Which blocks are looked for, in small cases and beside the obvious."""

from __future__ import annotations

import math

import torch

from transom.kv.recall.votes import elect, keenest, moments, representatives, votes


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
    got = votes(asked, sums, found_by, 0.25).float()
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
    """Beside drawing the keys: the expected best score, not the one of the keys at hand."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 1, 4000, 8, generator=generator) * torch.arange(1, 9) + 0.3
    queries = torch.randn(1, 1, 20, 8, generator=generator)
    sums = 5 * torch.randn(1, 1, 20, generator=generator)
    chosen, theirs = keenest(queries, sums, moments(keys), 4000, 0.5, 6)
    mean, spread = keys[0, 0].mean(0), keys[0, 0].var(0, correction=0)
    hope = [
        0.5 * float(q @ mean + math.sqrt(2 * math.log(4000) * float(q.square() @ spread)))
        - float(s)
        for q, s in zip(queries[0, 0], sums[0, 0], strict=True)
    ]
    best = sorted(range(20), key=lambda place: -hope[place])[:6]
    torch.testing.assert_close(chosen[0, 0], queries[0, 0, best])
    torch.testing.assert_close(theirs[0, 0], sums[0, 0, best])
    best_scores = 0.5 * (queries[0, 0] @ keys[0, 0].T).amax(1) - sums[0, 0]
    assert len({*best_scores.topk(4).indices.tolist()} & {*best}) >= 3


def test_few_queries_all_vote() -> None:
    queries, sums = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3)
    chosen, theirs = keenest(queries, sums, torch.zeros(1, 2, 2, 4), 10, 1.0, 3)
    assert chosen is queries
    assert theirs is sums


def test_moments_add_up() -> None:
    keys = torch.randn(2, 6, 4)
    together = moments(keys[:, :2]) + moments(keys[:, 2:])
    torch.testing.assert_close(together, torch.stack((keys.sum(1), keys.square().sum(1)), dim=1))
