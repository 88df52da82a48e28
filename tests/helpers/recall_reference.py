"""A slow, obvious implementation of recall: token by token, head by head, in lists."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.helpers.models import Rule
from tests.helpers.token_by_token import token_by_token
from transom.attention.rotary import Rotary
from transom.kv.recall.scoring import AT_LEAST, IN_COMMON


class ReferenceRecall:
    """One layer of one row."""

    def __init__(
        self, policy: Any, rotary: Rotary | None, compact: bool, rule: Rule, below: Any
    ) -> None:
        self.below = below  # selection -> block -> squares of the votes of layers below
        self.policy, self.rotary, self.compact, self.rule = policy, rotary, compact, rule
        self.keys: list[Tensor] = []  # `(kv_heads, dim)` each, before rotary
        self.values: list[Tensor] = []
        self.queries: list[Tensor] = []  # `(heads, dim)`
        self.sums: list[list[Tensor]] = []  # per token and head: log of the sum of exponentials
        #                                     of what it sees, whatever is recalled
        self.tally: list[dict[int, float]] = []  # per kv head: block -> votes
        self.framed: list[list[int]] = []  # per kv head: the blocks in its frames
        self.recalled: list[set[int]] = []  # per kv head: those that it sees
        self.directions: list[Tensor] = []  # per kv head
        self.kept: dict[tuple[int, int], Tensor] = {}  # representatives of blocks, once computed
        self.after: list[list[list[int]]] = []  # recalled blocks per head, after each token

    def step(self, position: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        policy, block = self.policy, self.policy.block_size
        if not self.keys:
            self.tally = [{} for _ in k]
            self.framed, self.recalled = [[] for _ in k], [set() for _ in k]
        if position % policy.chunk_size == 0:
            self.select(position)
        self.keys.append(k)
        self.values.append(v)
        self.queries.append(q)
        local = (position // block - policy.local // block) * block
        outputs: list[Tensor] = []
        self.sums.append([])
        certain = local if self.left_out(position) else 0
        for head in range(len(q)):
            mine = head // (len(q) // len(k))
            seen = [
                token
                for token in range(position + 1)
                if token < block or token >= local or token // block in self.recalled[mine]
            ]
            places = [self.place(token, position, mine) for token in seen]
            products = torch.stack(
                [
                    self.rotated(q[head], places[-1]) @ self.rotated(self.keys[token][mine], place)
                    for token, place in zip(seen, places, strict=True)
                ]
            )
            values = torch.stack([self.values[token][mine] for token in seen])
            outputs.append(self.rule.weights(products, head) @ values)
            always = torch.tensor([token < block or token >= certain for token in seen])
            scores = self.rule.scores(products[always])
            self.sums[-1].append(self.rule.sum_of(scores, head))
        self.after.append([sorted(blocks) for blocks in self.recalled])
        return torch.stack(outputs)

    def place(self, token: int, now: int, head: int) -> int:
        """Where the token at `now` sees another one: recalled blocks first, then local ones."""
        block = self.policy.block_size
        if not self.compact or token < block:
            return token
        number = token // block
        if number in self.recalled[head]:
            return (1 + self.framed[head].index(number)) * block + token % block
        return token - self.left_out(now) * block

    def left_out(self, now: int) -> int:
        """How many blocks the token at `now` does not see."""
        policy, block = self.policy, self.policy.block_size
        return max(0, now // block - policy.local // block - policy.recalled - 1)

    def select(self, now: int) -> None:
        """Select blocks before the token at `now`, the first of a chunk."""
        policy, block = self.policy, self.policy.block_size
        newest = now // block - 1 - policy.local // block
        oldest = max(1, newest - -(-policy.global_ // block) + 1)
        cold = list(range(oldest, newest + 1))
        if newest <= policy.recalled:
            self.framed = [[*cold] for _ in self.framed]
            self.recalled = [{*cold} for _ in self.framed]
            return
        asked = self.below.get(now, {})
        sought = sorted(asked, key=lambda number: (-rounded(asked[number]), -number))
        common = [n for n in sought[: policy.in_common] if asked[n] >= IN_COMMON]
        mine = self.below[now] = {number: asked.get(number, 0.0) for number in cold}
        if not self.directions:
            self.directions = [self.main_directions(head) for head in range(len(self.framed))]
        for head in range(len(self.framed)):
            before = self.tally[head]
            tally = {number: 0.7 * before.get(number, 0.0) for number in cold}
            for query, sums in self.hopeful(head, now, newest):
                for number in cold:
                    share = torch.sigmoid(self.best(query, head, number) - sums)
                    tally[number] = max(tally[number], rounded(share))
            if (
                now % block == 0
            ):  # the newest has just left the local tokens: its vote is the attention it had
                for query, sums in self.asking(head, now):
                    share = (self.best(query, head, newest) - sums).exp().clamp(max=1)
                    tally[newest] = max(tally[newest], rounded(share))
            self.tally[head] = tally
            for number in cold:
                mine[number] += tally[number] ** 2
            order = [n for n in cold if n in common or tally[n] >= AT_LEAST]
            order.sort(key=lambda n: (n not in common, -rounded(tally[n]), -n))
            wanted = order[: policy.recalled]
            self.exchange(self.framed[head], wanted, cold)
            self.recalled[head] = {*wanted}

    @staticmethod
    def exchange(frames: list[int], wanted: list[int], cold: list[int]) -> None:
        """Wanted blocks replace blocks that are no longer cold, then unwanted blocks."""
        coming = [number for number in cold if number in wanted and number not in frames]
        lost = [place for place, number in enumerate(frames) if number not in cold]
        others = [number for number in cold if number not in frames and number not in coming]
        while len(coming) < len(lost):
            coming.append(others.pop())
        idle = [
            place for place, number in enumerate(frames) if number in cold and number not in wanted
        ]
        for place, number in zip(lost + idle, sorted(coming), strict=False):
            frames[place] = number

    def hopeful(self, head: int, now: int, newest: int) -> list[tuple[Tensor, Tensor]]:
        """The queries of the last chunk that can expect to find a block, with their sums."""
        keys = torch.cat([self.found_by(head, n) for n in range(1, newest + 1)]).double()
        queries = []
        for query, sums in self.asking(head, now):
            # The expected best score of so many random keys with these moments.
            scores = keys @ query.double()
            spread = scores.std(correction=0)
            best = scores.mean() + math.sqrt(2 * math.log(len(keys))) * spread
            hope = float(self.rule.scores(best) - sums)
            if hope > math.log(AT_LEAST / (1 - AT_LEAST)):
                queries.append((query, sums))
        return queries

    def asking(self, head: int, now: int) -> list[tuple[Tensor, Tensor]]:
        """The queries of the last chunk, with their sums."""
        policy, group = self.policy, len(self.queries[0]) // len(self.framed)
        away = policy.local // policy.block_size + (policy.recalled + 1) // 2
        return [
            (
                self.rotated(self.queries[token][asker], away * policy.block_size),
                self.sums[token][asker],
            )
            for asker in range(head * group, (head + 1) * group)
            for token in range(now - policy.chunk_size, now)
        ]

    def main_directions(self, head: int) -> Tensor:
        """`(dim, dim / 2)`: the directions in which keys of the first cold blocks are largest."""
        first = range(1, self.policy.recalled + 2)
        keys = torch.cat([self.found_by(head, number) for number in first]).double()
        _, sizes, directions = torch.linalg.svd(keys, full_matrices=False)
        some = directions[sizes.square() > 1e-5 * sizes[0].square()]
        return some[: max(1, keys.shape[1] // 2)].T.float()

    def found_by(self, head: int, number: int) -> Tensor:
        """A block's representatives, `(count, dim)`, after rounding to the stored dtype."""
        if (head, number) in self.kept:
            return self.kept[head, number]
        block = self.policy.block_size
        keys = [self.keys[token][head] for token in range(number * block, (number + 1) * block)]
        mean = sum(keys) / len(keys)
        away = [float((key - mean).square().sum().bfloat16()) for key in keys]
        order = sorted(range(block), key=lambda place: (-away[place], -place))
        few = order[: self.policy.representatives_per_block]
        self.kept[head, number] = torch.stack([keys[place] for place in few])
        return self.kept[head, number]

    def best(self, query: Tensor, head: int, number: int) -> Tensor:
        """The highest score of a block's representatives, in the main directions."""
        directions = self.directions[head]
        scores = (self.found_by(head, number) @ directions) @ (query @ directions)
        return self.rule.scores(scores.max())

    def rotated(self, x: Tensor, place: int) -> Tensor:
        if self.rotary is None:
            return x
        return self.rotary.rotate(x, *self.rotary.angles(torch.tensor(place)))


def rounded(x: float) -> float:
    return float(torch.as_tensor(x).bfloat16())


@contextmanager
def recall_reference(model: Any, policy: Any, compact: bool = True) -> Any:
    """While open, full-attention layers of `model` run the reference; gives out its layers.

    The list holds, for each row of the batch, the layers in order.
    """

    rows: dict[int, list[Any]] = {}

    def make(number: int, rotary: Rotary | None, rule: Rule) -> ReferenceRecall:
        row = len(rows.setdefault(number, []))
        below = {} if number == min(rows) else rows[min(rows)][row]
        rows[number].append(below)
        return ReferenceRecall(policy, rotary, compact, rule, below)

    with token_by_token(model, make) as layers:
        yield layers
