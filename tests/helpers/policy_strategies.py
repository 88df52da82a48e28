"""Policies of every known kind, so small that all their visible tokens can be listed."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from transom.errors import PolicyError
from transom.policies import Hierarchical, Policy, Positional, Scored, known

PRECISIONS = ("auto", "int8", "int4")


def of_kind(base: type[Policy]) -> list[Any]:
    """The known policies that are derived from a class, by name."""
    return [kind for _, kind in sorted(known().items()) if issubclass(kind, base)]


@st.composite
def policies(draw: Any, most: int = 40, precision: tuple[str, ...] = PRECISIONS) -> Positional:
    """A policy by position of any known name, with any valid parameters."""
    kind = draw(st.sampled_from(of_kind(Positional)))
    numbers = [x.name for x in dataclasses.fields(kind) if isinstance(x.default, int)]
    values = {name: draw(st.integers(1, most)) for name in numbers}
    try:
        made: Positional = kind(**values, kv=draw(st.sampled_from(precision)))
    except PolicyError:
        reject()
    return made


@st.composite
def recalling(draw: Any) -> Positional:
    """A policy by recall: a query may see more tokens than it sees at once."""
    block, local, blocks = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    more = draw(st.integers(0, 40))
    return Hierarchical(
        local * block, blocks * block + more, recall="blocks", block=block, blocks=blocks, chunk=1
    )


@st.composite
def scored_policies(draw: Any) -> Scored:
    """A policy by score of any known name."""
    kind = draw(st.sampled_from(of_kind(Scored)))
    sinks = draw(st.integers(0, 6))
    recent, every = (draw(st.none() | st.integers(1, 6)) for _ in range(2))
    size = draw(st.integers(max(8, sinks + (recent or 4) + (every or 2)) + 4, 60))
    heads = draw(st.sampled_from(["equal", "adaptive"] if kind.per_head else ["equal"]))
    layers = draw(st.sampled_from(["equal", "pyramid"]))
    kv = draw(st.sampled_from(PRECISIONS))
    made: Scored = kind(size, sinks, recent, every, heads, layers, kv=kv)
    return made
