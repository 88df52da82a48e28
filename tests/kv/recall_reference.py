"""The slow, obvious meaning of recall: token by token, head by head, everything kept in lists."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.kv.token_by_token import token_by_token
from transom.attention.rotary import Rotary


class ReferenceRecall:
    """One layer of one row."""

    def __init__(self, policy: Any, rotary: Rotary | None, compact: bool, scale: float) -> None:
        self.policy, self.rotary, self.compact, self.scale = policy, rotary, compact, scale
        self.keys: list[Tensor] = []  # `(kv_heads, dim)` each, before rotary
        self.values: list[Tensor] = []
        self.queries: list[Tensor] = []  # `(heads, dim)`
        self.sums: list[list[Tensor]] = []  # per token and head: log of the sum of exponents
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
        for head in range(len(q)):
            mine = head // (len(q) // len(k))
            seen = [
                token
                for token in range(position + 1)
                if token < block or token >= local or token // block in self.recalled[mine]
            ]
            places = range(len(seen)) if self.compact else seen
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
        self.after.append([sorted(blocks) for blocks in self.recalled])
        return torch.stack(outputs)

    def select(self, now: int) -> None:
        """Before the token at `now`, with which a chunk begins."""
        policy, block = self.policy, self.policy.block_size
        newest = now // block - 1 - policy.local // block
        oldest = max(1, newest - -(-policy.global_ // block) + 1)
        cold = list(range(oldest, newest + 1))
        for head in range(len(self.recalled)):
            if newest <= policy.recalled:
                self.recalled[head] = cold
                continue
            tally = {number: 0.5 * self.tally[head].get(number, 0.0) for number in cold}
            group = len(self.queries[0]) // len(self.recalled)
            for token in range(now - policy.chunk_size, now):
                for mine in range(head * group, (head + 1) * group):
                    for number in cold:
                        best = self.best(self.queries[token][mine], head, number)
                        share = torch.sigmoid(best - self.sums[token][mine]).bfloat16()
                        tally[number] = max(tally[number], float(share))
            self.tally[head] = tally
            order = sorted(cold, key=lambda number: (-tally[number], -number))
            self.recalled[head] = order[: policy.recalled]

    def best(self, query: Tensor, head: int, number: int) -> Tensor:
        """How well the best of a block's representatives fits."""
        block = self.policy.block_size
        keys = [self.keys[token][head] for token in range(number * block, (number + 1) * block)]
        mean = sum(keys) / len(keys)
        alike = sorted(keys, key=lambda key: float(torch.cosine_similarity(key, mean, dim=0)))
        few = alike[: self.policy.representatives_per_block]
        away = self.policy.local // block + (self.policy.recalled + 1) // 2
        query = self.turned(query, away * block)
        return torch.stack([query @ self.turned(key, 0) * self.scale for key in few]).max()

    def turned(self, x: Tensor, place: int) -> Tensor:
        if self.rotary is None:
            return x
        return self.rotary.turn(x, *self.rotary.angles(torch.tensor(place)))


@contextmanager
def recall_reference(model: Any, policy: Any, compact: bool = True) -> Any:
    """While open, full-attention layers of `model` run the reference; gives out its layers.

    The list holds, for each row of the batch, the layers in order.
    """

    def make(number: int, rotary: Rotary | None, scale: float) -> ReferenceRecall:
        return ReferenceRecall(policy, rotary, compact, scale)

    with token_by_token(model, make) as layers:
        yield layers
