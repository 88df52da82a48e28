"""A small policy of every known name, for suites that test all of them by one contract.

What is not spelled here is found by trying, so that a new policy is in those suites by being known.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any

from transom.errors import PolicyError
from transom.policies import Policy, known, parse

SIZE = 20  # the most tokens that are visible at once
SPELLED = {
    "sinks": ("sinks:3,window=17",),
    "chunked": ("chunked:20,chunk=6",),
    "hierarchical": (
        "hierarchical:8,global=12",
        "hierarchical:8,global=90,recall=blocks,block=4,blocks=2,chunk=2",
    ),
}


def examples() -> list[str]:
    """Spellings of policies, at least one for each name."""
    return [
        text for name, kind in known().items() for text in SPELLED.get(name, (str(small(kind)),))
    ]


def stored_in_every_way() -> list[str]:
    """The examples, and variants with adaptive budgets or with fewer bits."""
    return [
        *examples(),
        "snapkv:20,heads=adaptive",
        "tova:20,layers=pyramid",
        "full:kv=int8",
        "sinks:3,window=97,kv=int8",
        "window:100,kv=int4",
        "snapkv:100,heads=adaptive,kv=int4",
    ]


def that_decide_by(what: str) -> list[Any]:
    """The examples of one kind of policy: by `"position"`, `"score"` or `"recall"`."""
    return [policy for policy in map(parse, examples()) if policy.decides_by == what]


def bounded() -> list[Any]:
    """The bounded examples of policies by position."""
    return [policy for policy in that_decide_by("position") if policy.capacity]


def small(kind: type[Policy]) -> Policy:
    """A policy under which `SIZE` tokens are visible; the default one if it has no bound.

    Sets the first number to `SIZE` if that works. Otherwise tries all numbers up to `SIZE`, and
    takes the middle one of the choices that work.
    """
    numbers = [x.name for x in fields(kind) if isinstance(x.default, int) and not x.kw_only]
    if kind().capacity is None:
        return kind()
    found = _made(kind, {numbers[0]: SIZE})
    if not found:
        values = product(range(1, SIZE + 1), repeat=len(numbers))
        found = [p for x in values for p in _made(kind, dict(zip(numbers, x, strict=True)))]
    assert found, f"no {kind.name} shows {SIZE} tokens; spell one in SPELLED"
    return found[len(found) // 2]


def _made(kind: Any, numbers: dict[str, int]) -> list[Policy]:
    try:
        policy: Policy = kind(**numbers)
    except PolicyError:
        return []
    return [policy] if policy.capacity == SIZE else []
