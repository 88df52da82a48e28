"""What a pattern says of tiles and of one query agrees with what it says of single positions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.patterns import (
    BATCH,
    HEADS,
    KINDS,
    LENGTH,
    anything,
    spelled,
    with_spans,
)
from tests.helpers.policy_strategies import policies
from transom.attention.patterns import (
    Grid,
    Pattern,
    causal,
    chunked,
    dilated,
    documents,
    everything,
    global_tokens,
    head_groups,
    padding,
    pattern,
    prefix_lm,
    random_blocks,
    sinks,
    sliding,
)
from transom.errors import InputError, PolicyError
from transom.policies import Full, Policy, Sinks

FAR = 150  # keys to look at, if a pattern has no last key
EARLY = 6  # queries with negative positions, as if there were more queries than keys


def look(pattern: Pattern, q: Tensor, k: Tensor) -> Tensor:
    """Each single position, `(BATCH, HEADS, queries, keys)`."""
    b, h = torch.arange(BATCH)[:, None, None, None], torch.arange(HEADS)[:, None, None]
    return pattern(b, h, q[:, None], k).expand(BATCH, HEADS, len(q), len(k))


def intervals(first: int) -> st.SearchStrategy[Tensor]:
    """First and last positions of short and long intervals, `(intervals, 2)`."""
    starts, lengths = st.integers(first, LENGTH - 1), st.sampled_from([1, 2, 3, 4, 6, 9, 14, 30])
    some = st.tuples(starts, lengths).map(lambda pair: (pair[0], min(sum(pair), LENGTH) - 1))
    return st.lists(some, min_size=8, max_size=8).map(torch.tensor)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), intervals(-EARLY), intervals(0))
def test_tiles_say_nothing_wrong(kind: str, data: st.DataObject, q: Tensor, k: Tensor) -> None:
    some = data.draw(KINDS[kind])
    tiles = some.tiles(Grid(q[:, :1], q[:, 1:], k[None, :, 0], k[None, :, 1]))
    shape = (BATCH, HEADS, len(q), len(k))
    may, must = tiles.some.expand(shape), tiles.every.expand(shape)
    whole = look(some, torch.arange(-EARLY, LENGTH), torch.arange(LENGTH))
    for i, (q_first, q_last) in enumerate((q + EARLY).tolist()):
        for j, (k_first, k_last) in enumerate(k.tolist()):
            tile = whole[:, :, q_first : q_last + 1, k_first : k_last + 1].flatten(2)
            assert (may[:, :, i, j] >= tile.any(-1)).all()
            assert (must[:, :, i, j] <= tile.all(-1)).all()


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_tiles_of_one_position_are_decided(kind: str, data: st.DataObject) -> None:
    some = data.draw(KINDS[kind])
    q, k = torch.arange(-EARLY, LENGTH), torch.arange(LENGTH)
    tiles = some.tiles(Grid(q[:, None], q[:, None], k[None], k[None]))
    whole = look(some, q, k)
    assert torch.equal(tiles.some.expand_as(whole), whole)
    assert torch.equal(tiles.every.expand_as(whole), whole)


@given(with_spans | spelled, st.integers(0, 70))
def test_spans_are_the_visible_keys(some: Pattern, query: int) -> None:
    spans = some.spans(query)
    if spans is None:
        return
    assert all(len(span) > 0 for span in spans)
    assert all(one.stop <= two.start for one, two in pairwise(spans))
    visible = look(some, torch.tensor([query]), torch.arange(FAR))[0, 0, 0]
    assert [k for span in spans for k in range(*span)] == visible.nonzero().flatten().tolist()


@given(with_spans, st.integers(0, 70))
def test_there_are_spans_where_a_formula_gives_them(some: Pattern, query: int) -> None:
    assert some.spans(query) is not None
    assert (~some).spans(query) is None


@given(anything)
def test_patterns_are_values(some: Pattern) -> None:
    other = pickle.loads(pickle.dumps(some))
    assert other == some
    assert hash(other) == hash(some)
    assert some != ~some
    assert some & some != some | some


def test_equal_means_the_same_pattern_made_of_the_same_numbers() -> None:
    assert sliding(4) == sliding(4, future=0) != sliding(4, 1)
    assert sliding(4) != sinks(4)
    assert everything() != causal()
    assert global_tokens(3) == global_tokens([2, 0, 1, 1]) != global_tokens([2])
    assert pattern("sinks:4,window=8") == pattern(Sinks(4, 8)) != pattern(Full())
    mask = torch.tensor([[1, 0, 1]])
    assert padding(mask) == padding(mask.bool()) == padding(mask * 9) != padding(mask[:, :2])
    assert padding(mask) != documents(torch.tensor([[0, 0, 1]]))
    assert len({sliding(4) | sinks(2), sliding(4) | sinks(2), sinks(2) | sliding(4)}) == 2


@given(policies(), st.integers(1, 60))
def test_a_policy_is_a_pattern(policy: Policy, length: int) -> None:
    expected = [[bool(policy.visible(q, k)) for k in range(length)] for q in range(length)]
    assert pattern(policy).mask(length)[0, 0].tolist() == expected


@given(anything, st.integers(1, LENGTH), st.integers(1, LENGTH))
def test_the_last_query_of_a_mask_is_at_the_last_key(some: Pattern, one: int, two: int) -> None:
    q_len, kv_len = sorted((one, two))
    mask = some.mask(q_len, kv_len, batch=BATCH, heads=HEADS)
    assert mask.shape == (BATCH, HEADS, q_len, kv_len)
    assert torch.equal(mask, some.mask(kv_len, batch=BATCH, heads=HEADS)[:, :, -q_len:])


@given(anything)
def test_pairs_are_those_of_the_mask(some: Pattern) -> None:
    batch, heads = some.batch or 1, some.heads or 1
    mask = some.mask(7, LENGTH, batch=batch, heads=heads)
    assert some.pairs(7, LENGTH) == pytest.approx(int(mask.sum()) / (batch * heads))
    assert some.fraction(7, LENGTH) == pytest.approx(mask.float().mean().item())


def by_hand(rows: list[str]) -> list[list[bool]]:
    return [[cell == "#" for cell in row] for row in rows]


@pytest.mark.parametrize(
    ("some", "rows"),
    [
        (everything(), ["####", "####", "####", "####"]),
        (causal(), ["#...", "##..", "###.", "####"]),
        (sliding(2), ["#...", "##..", ".##.", "..##"]),
        (sliding(2, 1), ["##..", "###.", ".###", "..##"]),
        (sinks(2), ["#...", "##..", "##..", "##.."]),
        (dilated(2, 2), ["#...", ".#..", "#.#.", ".#.#"]),
        (chunked(2), ["#...", "##..", "..#.", "..##"]),
        (prefix_lm(2), ["##..", "##..", "###.", "####"]),
        (global_tokens([1]), [".#..", "####", ".#..", ".#.."]),
        (documents([1, 2, 1]), ["#...", ".##.", ".##.", "...#"]),
        (padding(torch.tensor([[0, 1, 1, 0]])), [".##."] * 4),
        (~sliding(2), [".###", "..##", "#..#", "##.."]),
        (causal() & documents([2, 2]), ["#...", "##..", "..#.", "..##"]),
        (sinks(1) | sliding(1), ["#...", "##..", "#.#.", "#..#"]),
    ],
    ids=repr,
)
def test_by_hand(some: Pattern, rows: list[str]) -> None:
    assert some.mask(4)[0, 0].tolist() == by_hand(rows)


def test_random_blocks_choose_as_many_as_there_are_and_always_the_same() -> None:
    some = random_blocks(2, block=4, seed=1)
    blocks = some.mask(40)[0, 0][3::4].view(10, 10, 4)  # the last query of every block
    assert blocks.all(-1).sum(1).tolist() == [1] + [2] * 9
    assert torch.equal(blocks.all(-1), blocks.any(-1))
    assert torch.equal(some.mask(400)[:, :, :40, :40], some.mask(40))
    assert not torch.equal(some.mask(40), random_blocks(2, block=4, seed=2).mask(40))


def test_heads_and_rows_have_their_own() -> None:
    streaming = sinks(1) | sliding(2)
    real = torch.ones(2, 9)
    real[1, :4] = 0
    some = head_groups([causal(), streaming], [0, 1, 0]) & padding(real)
    assert (some.batch, some.heads, some.limit) == (2, 3, 9)
    mask = some.mask(9, batch=2, heads=3)
    assert torch.equal(mask[0, 1], streaming.mask(9)[0, 0])
    assert torch.equal(mask[0, 2], causal().mask(9)[0, 0])
    assert torch.equal(mask[1, 0], causal().mask(9)[0, 0] & (torch.arange(9) >= 4))


def test_documents_are_told_apart_however_they_are_numbered() -> None:
    expected = documents([2, 3, 1])
    assert documents(torch.tensor([[0, 0, 1, 1, 1, 2]], dtype=torch.uint8)) == expected
    assert documents(torch.tensor([[-1, -1, 2**40, 2**40, 2**40, 2**41]])) == expected


def test_what_is_made_for_some_tokens_says_so() -> None:
    for some in (documents([3, 2]), causal() & padding(torch.ones(1, 5)), ~documents([5])):
        assert some.limit == 5
        assert some.mask(5).shape == (1, 1, 5, 5)
        with pytest.raises(InputError, match="made for 5 tokens and there are 6 keys"):
            some.mask(6)
        with pytest.raises(InputError, match="made for 5 tokens"):
            some.tiles(Grid(*(torch.tensor([[edge]]) for edge in (0, 5, 0, 5))))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (sliding, (0,), "sliding: size is 0; expected at least 1"),
        (sliding, (2.0,), r"sliding: size is 2.0 \(float\); expected a whole number"),
        (sliding, (2, -1), "sliding: future is -1; expected at least 0"),
        (sinks, (0,), "sinks: count is 0"),
        (dilated, (0, 1), "dilated: size is 0"),
        (dilated, (1, 0), "dilated: step is 0"),
        (chunked, (True,), "chunked: size is True"),
        (prefix_lm, (0,), "prefix_lm: length is 0"),
        (pattern, (3,), "pattern: policy is 3; expected a policy or its text"),
        (global_tokens, (0,), "global_tokens: positions is 0"),
        (global_tokens, (True,), "global_tokens: positions is True"),
        (global_tokens, ([],), "no positions were given"),
        (global_tokens, ([3, -1],), "global_tokens: position is -1"),
        (random_blocks, (0,), "random_blocks: count is 0"),
        (documents, (3,), "documents: numbers is 3; expected a list or a tensor"),
        (documents, ([],), r"numbers of shape \(1, 0\)"),
        (documents, ([3, 0],), "documents: length is 0"),
        (documents, (torch.tensor(1),), r"numbers of shape \(\)"),
        (documents, (torch.tensor([0, 1]),), r"numbers of shape \(2,\)"),
        (documents, (torch.tensor([[0.0, 1.0]]),), r"numbers of shape \(1, 2\); expected whole"),
        (documents, (torch.tensor([[0, 1, 0]]),), "never fall along a row"),
        (documents, (torch.tensor([[1, 0]], dtype=torch.uint8),), "never fall along a row"),
        (padding, (torch.ones(3),), r"mask has shape \(3,\); expected \(batch, kv_len\)"),
        (padding, (torch.ones(1, 0),), r"mask has shape \(1, 0\)"),
        (head_groups, ([causal()], []), "choice is"),
        (head_groups, ([causal()], [0, 1]), "there are 1 patterns; expected the index"),
        (head_groups, ([causal(), 3], [0]), "3 is among the patterns"),
        (head_groups, ([head_groups([causal()], [0, 0])], [0]), "or made for 1"),
        (head_groups, ([padding(torch.ones(n, 4)) for n in (2, 3)], [0, 1]), "batches of"),
    ],
)
def test_mistakes(make: Callable[..., Pattern], arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(*arguments)


@pytest.mark.parametrize("name", ["block", "seed"])
def test_mistakes_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"random_blocks: {name} is -1"):
        random_blocks(1, **{name: -1})


def test_a_policy_that_there_is_not() -> None:
    with pytest.raises(PolicyError, match=r"unknown policy 'windw'\. Did you mean 'window"):
        pattern("windw:8")


def test_what_is_made_for_other_rows_or_heads_does_not_combine() -> None:
    two, three = (head_groups([causal(), sinks(1)], [0] * n) for n in (2, 3))
    with pytest.raises(InputError, match="heads is 2 in one and 3 in the other"):
        two | (causal() & three)
    with pytest.raises(InputError, match="batch is 2 in one and 3 in the other"):
        padding(torch.ones(2, 4)) & ~padding(torch.ones(3, 4))
