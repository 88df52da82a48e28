"""Slow, obvious policies by score: token by token, head by head, with lists and loops.

Each rule is written from its paper and shares nothing with `transom.policies` but the parameters.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.helpers.models import Rule, full_layers
from tests.helpers.token_by_token import token_by_token
from transom.attention.rotary import Rotary


@dataclass
class Head:
    """The tokens that one kv head of one row holds, oldest first."""

    positions: list[int] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)  # before rotary
    values: list[Tensor] = field(default_factory=list)
    received: dict[int, float] = field(default_factory=dict)  # by position
    queries: list[list[Tensor]] = field(default_factory=list)  # per query head, before rotary
    attended: list[dict[int, float]] = field(default_factory=list)  # per token: position -> weight


@dataclass
class Eviction:
    """The tokens before and after one eviction, per kv head."""

    at: int
    scores: list[list[float]]
    kept: list[list[int]]


class ReferenceLayer:
    """One layer of one row."""

    def __init__(self, policy: Any, rotary: Rotary | None, compact: bool, rule: Rule) -> None:
        self.policy, self.rotary, self.compact, self.rule = policy, rotary, compact, rule
        self.heads: list[Head] = []
        self.evictions: list[Eviction] = []
        self.after: list[list[list[int]]] = []  # after each token: positions held per head

    def rotated(self, x: Tensor, places: Any) -> Tensor:
        if self.rotary is None:
            return x
        return self.rotary.rotate(x, *self.rotary.angles(torch.as_tensor(places)))

    def keys(self, head: Head) -> Tensor:
        """`(tokens, dim)`, rotated."""
        compact = range(len(head.positions))
        return self.rotated(
            torch.stack(head.keys), list(compact if self.compact else head.positions)
        )

    def step(self, position: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token: `q` `(heads, dim)`, `k` and `v` `(kv_heads, dim)`, before rotary."""
        group = len(q) // len(k)
        if not self.heads:
            self.heads = [Head(queries=[[] for _ in range(group)]) for _ in k]
        if sum(len(head.positions) for head in self.heads) == self.policy.tokens * len(self.heads):
            self.evict(position)
        outputs = []
        for number, head in enumerate(self.heads):
            head.positions.append(position)
            head.keys.append(k[number])
            head.values.append(v[number])
            keys, last = self.keys(head), len(head.positions) - 1 if self.compact else position
            attended = torch.zeros(len(keys))
            for query in range(group):
                mine = q[number * group + query]
                head.queries[query].append(mine)
                products = keys @ self.rotated(mine, last)
                weights = self.rule.weights(products, number * group + query)
                outputs.append(weights @ torch.stack(head.values))
                attended += weights
            attended = dict(zip(head.positions, attended.tolist(), strict=True))
            for place, weight in attended.items():
                head.received[place] = head.received.get(place, 0.0) + weight
            head.attended.append(attended)
        self.after.append([list(head.positions) for head in self.heads])
        return torch.stack(outputs)

    def evict(self, now: int) -> None:
        policy = self.policy
        scores = [RULES[policy.name](self, head, now) for head in self.heads]
        keep = policy.tokens - policy.round
        protected = [
            {
                index
                for index, place in enumerate(head.positions)
                if place < policy.sinks or index >= len(head.positions) - policy.newest
            }
            for head in self.heads
        ]
        if policy.heads == "equal":
            chosen = [
                best(score, safe, keep) for score, safe in zip(scores, protected, strict=True)
            ]
        else:
            floor = int(keep * 0.2)
            safe = [
                best(score, held, max(floor, len(held)))
                for score, held in zip(scores, protected, strict=True)
            ]
            rest = sorted(
                (-score[index], number, index)
                for number, score in enumerate(scores)
                for index in range(len(score))
                if index not in safe[number]
            )
            chosen = [set(indices) for indices in safe]
            for _, number, index in rest[: keep * len(scores) - sum(map(len, safe))]:
                chosen[number].add(index)
        for head, stay in zip(self.heads, chosen, strict=True):
            for name in ("positions", "keys", "values"):
                setattr(head, name, [x for i, x in enumerate(getattr(head, name)) if i in stay])
        self.evictions.append(Eviction(now, scores, [list(h.positions) for h in self.heads]))
        for head in self.heads:
            head.attended = []


def best(scores: list[float], always: set[int], count: int) -> set[int]:
    """The `count` tokens with the highest scores, including those that always stay."""
    others = sorted((i for i in range(len(scores)) if i not in always), key=lambda i: -scores[i])
    return always | set(others[: count - len(always)])


def heavy_hitters(layer: ReferenceLayer, head: Head, now: int) -> list[float]:
    """H2O, algorithm 1: the accumulated attention of every query so far."""
    return [head.received[place] for place in head.positions]


def tova(layer: ReferenceLayer, head: Head, now: int) -> list[float]:
    """TOVA, section 3.2: attention of the last query, averaged over the heads of the layer."""
    return [
        sum(other.attended[-1][other.positions[index]] for other in layer.heads) / len(layer.heads)
        for index in range(len(head.positions))
    ]


def snapkv(layer: ReferenceLayer, head: Head, now: int) -> list[float]:
    """SnapKV, listing 1: summed over the observation window, averaged over neighbours."""
    window = min(32, layer.policy.round)
    prefix = head.positions[:-window]
    votes = [sum(row.get(place, 0.0) for row in head.attended[-window:]) for place in prefix]
    reach = layer.policy.kernel // 2
    padded = [0.0] * reach + votes + [0.0] * reach
    size = layer.policy.kernel
    pooled = [sum(padded[i : i + size]) / size for i in range(len(votes))]
    return pooled + [math.inf] * window


def keydiff(layer: ReferenceLayer, head: Head, now: int) -> list[float]:
    """KeyDiff, equation 4: minus the cosine with the mean of all directions."""
    keys = list(layer.keys(head))
    anchor = sum(key / key.norm() for key in keys) / len(keys)
    return [-float(key @ anchor / key.norm() / anchor.norm()) for key in keys]


def key_norm(layer: ReferenceLayer, head: Head, now: int) -> list[float]:
    """Keys of small norm get most of the attention, so those of the largest norm are evicted."""
    return [-float((key**2).sum().sqrt()) for key in head.keys]


def expected_attention(layer: ReferenceLayer, head: Head, now: int) -> list[float]:
    """Expected Attention, equations 6 to 9, with future queries averaged over 512 positions."""
    policy = layer.policy
    first, scale = len(head.positions) if layer.compact else now, layer.rule.scale
    total = [0.0] * len(head.positions)
    for queries in head.queries:
        seen = torch.stack(queries[policy.sinks :]).double()
        mean = seen.mean(0)
        centred = seen - mean
        covariance = centred.T @ centred / len(seen)
        rotation = torch.eye(len(mean), dtype=torch.double)
        if layer.rotary is not None:
            rotations = layer.rotary.matrix(torch.arange(first, first + 512), len(mean)).double()
            rotation = rotations.mean(0)
        mean, covariance = mean @ rotation, rotation.T @ covariance @ rotation
        keys = layer.keys(head).double()
        exponents = [
            float(key @ mean) * scale + float(key @ covariance @ key) * scale**2 / 2 for key in keys
        ]
        top = max(exponents)
        weights = [math.exp(x - top) for x in exponents]
        total = [t + w / sum(weights) for t, w in zip(total, weights, strict=True)]
    return [
        (t / len(head.queries) + 0.02) * float(value.norm())
        for t, value in zip(total, head.values, strict=True)
    ]


RULES = {
    "heavy-hitters": heavy_hitters,
    "tova": tova,
    "snapkv": snapkv,
    "keydiff": keydiff,
    "key-norm": key_norm,
    "expected-attention": expected_attention,
}


@contextmanager
def scored_reference(model: Any, policy: Any, compact: bool = True) -> Any:
    """While open, full-attention layers of `model` run the reference; gives out its layers.

    The list holds, for each row of the batch, the layers in order.
    """
    budgets = policy.by_layer(len(full_layers(model.config)))

    def make(number: int, rotary: Rotary | None, rule: Rule) -> ReferenceLayer:
        return ReferenceLayer(budgets[number], rotary, compact, rule)

    with token_by_token(model, make) as layers:
        yield layers
