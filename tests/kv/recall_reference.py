"""The slow, obvious meaning of recall: token by token, head by head, everything kept in lists."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.kv.token_by_token import token_by_token
from transom.attention.rotary import Rotary


class ReferenceRecall:
    """One layer of one row."""

    def __init__(
        self, policy: Any, rotary: Rotary | None, compact: bool, scale: float, below: Any
    ) -> None:
        self.below = below  # selection -> block -> squares of the votes of layers below
        self.policy, self.rotary, self.compact, self.scale = policy, rotary, compact, scale
        self.keys: list[Tensor] = []  # `(kv_heads, dim)` each, before rotary
        self.values: list[Tensor] = []
        self.queries: list[Tensor] = []  # `(heads, dim)`
        self.sums: list[list[Tensor]] = []  # per token and head: log of the sum of exponents
        self.local: list[list[Tensor]] = []  # the same of local keys alone, once there are others
        self.tally: list[dict[int, float]] = []  # per kv head: block -> votes
        self.recalled: list[list[int]] = []  # per kv head
        self.after: list[list[list[int]]] = []  # the same after each token

    def step(self, position: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        policy, block = self.policy, self.policy.block_size
        if not self.keys:
            self.tally, self.recalled = [{} for _ in k], [[] for _ in k]
        if position % policy.chunk_size == 0:
            self.select(position)
        self.keys.append(k)
        self.values.append(v)
        self.queries.append(q)
        local = (position // block - policy.local // block) * block
        outputs: list[Tensor] = []
        self.sums.append([])
        self.local.append([])
        near = local if self.left_out(position) else 0
        for head in range(len(q)):
            mine = head // (len(q) // len(k))
            seen = [
                token
                for token in range(position + 1)
                if token < block or token >= local or token // block in self.recalled[mine]
            ]
            places = [self.place(token, position, mine) for token in seen]
            logits = torch.stack(
                [
                    self.turned(q[head], places[-1])
                    @ self.turned(self.keys[token][mine], place)
                    * self.scale
                    for token, place in zip(seen, places, strict=True)
                ]
            )
            values = torch.stack([self.values[token][mine] for token in seen])
            outputs.append(logits.softmax(0) @ values)
            self.sums[-1].append(logits.logsumexp(0))
            close = torch.tensor([token >= near for token in seen])
            self.local[-1].append(logits[close].logsumexp(0))
        self.after.append([sorted(blocks) for blocks in self.recalled])
        return torch.stack(outputs)

    def place(self, token: int, now: int, head: int) -> int:
        """Where the token at `now` sees another: recalled blocks in frames, then local ones."""
        block = self.policy.block_size
        if not self.compact or token < block:
            return token
        number = token // block
        if number in self.recalled[head]:
            return (1 + self.recalled[head].index(number)) * block + token % block
        return token - self.left_out(now) * block

    def left_out(self, now: int) -> int:
        """How many blocks the token at `now` does not see."""
        policy, block = self.policy, self.policy.block_size
        return max(0, now // block - policy.local // block - policy.recalled - 1)

    def select(self, now: int) -> None:
        """Before the token at `now`, with which a chunk begins."""
        policy, block = self.policy, self.policy.block_size
        newest = now // block - 1 - policy.local // block
        oldest = max(1, newest - -(-policy.global_ // block) + 1)
        cold = list(range(oldest, newest + 1))
        if newest <= policy.recalled:
            self.recalled = [cold for _ in self.recalled]
            return
        asked = self.below.get(now, {})
        wanted = {number: rounded(asked[number]) for number in asked}
        common = sorted(wanted, key=lambda number: (-wanted[number], -number))[: policy.in_common]
        mine = self.below[now] = {number: asked.get(number, 0.0) for number in cold}
        for head in range(len(self.recalled)):
            before = self.tally[head]
            tally = {number: rounded(0.7 * before.get(number, 0.0)) for number in cold}
            for query, sums in self.keenest(head, now, newest):
                for number in cold:
                    share = torch.sigmoid(self.best(query, head, number) - sums).bfloat16()
                    tally[number] = max(tally[number], float(share))
            self.tally[head] = tally
            for number in cold:
                mine[number] += tally[number] ** 2
            order = sorted(cold, key=lambda number: (number not in common, -tally[number], -number))
            self.recalled[head] = self.framed(self.recalled[head], order[: policy.recalled])

    @staticmethod
    def framed(held: list[int], wanted: list[int]) -> list[int]:
        """What comes takes the frames of what is not wanted any more, in order."""
        coming = sorted(number for number in wanted if number not in held)
        return [number if number in wanted else coming.pop(0) for number in held]

    def keenest(self, head: int, now: int, newest: int) -> list[tuple[Tensor, Tensor]]:
        """The queries of the last chunk that may hope for most, and the sums of what they see."""
        policy, group = self.policy, len(self.queries[0]) // len(self.recalled)
        found_by = [self.found_by(head, number) for number in range(1, newest + 1)]
        keys = torch.cat(found_by).double()
        away = policy.local // policy.block_size + (policy.recalled + 1) // 2
        queries = []
        for asking in range(head * group, (head + 1) * group):
            for token in range(now - policy.chunk_size, now):
                query = self.turned(self.queries[token][asking], away * policy.block_size)
                # What the best score of so many random keys with these moments would be.
                spread = (query.double().square() @ keys.var(0, correction=0)).sqrt()
                best = query.double() @ keys.mean(0) + math.sqrt(2 * math.log(len(keys))) * spread
                hope = float(best * self.scale - self.local[token][asking])
                queries.append((hope, query, self.sums[token][asking]))
        queries.sort(key=lambda one: -one[0])
        return [(query, sums) for _, query, sums in queries[: policy.chunk_size]]

    def found_by(self, head: int, number: int) -> Tensor:
        """A block's representatives, `(count, dim)` as they are after rounding."""
        block = self.policy.block_size
        keys = [self.keys[token][head] for token in range(number * block, (number + 1) * block)]
        mean = sum(keys) / len(keys)
        away = [float((key - mean).square().sum().bfloat16()) for key in keys]
        order = sorted(range(block), key=lambda place: (-away[place], -place))
        few = [keys[place] for place in order[: self.policy.representatives_per_block]]
        return torch.stack(few).bfloat16().float()

    def best(self, query: Tensor, head: int, number: int) -> Tensor:
        """How well the best of a block's representatives fits."""
        scores = self.found_by(head, number) @ query.bfloat16().float()
        return scores.bfloat16().float().max() * self.scale

    def turned(self, x: Tensor, place: int) -> Tensor:
        if self.rotary is None:
            return x
        return self.rotary.turn(x, *self.rotary.angles(torch.tensor(place)))


def rounded(x: float) -> float:
    return float(torch.tensor(x).bfloat16())


@contextmanager
def recall_reference(model: Any, policy: Any, compact: bool = True) -> Any:
    """While open, full-attention layers of `model` run the reference; gives out its layers.

    The list holds, for each row of the batch, the layers in order.
    """

    rows: dict[int, list[Any]] = {}

    def make(number: int, rotary: Rotary | None, scale: float) -> ReferenceRecall:
        row = len(rows.setdefault(number, []))
        below = {} if number == min(rows) else rows[min(rows)][row]
        rows[number].append(below)
        return ReferenceRecall(policy, rotary, compact, scale, below)

    with token_by_token(model, make) as layers:
        yield layers
