"""Small random patterns, for Hypothesis: of every constructor, and combined."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from tests.helpers.policy_strategies import policies
from transom.attention.patterns import (
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

BATCH, HEADS, LENGTH = 2, 3, 48
SIZES = st.integers(1, 20)

# Patterns that go on for ever, and whose `repr` can be read back.
SPELLED: dict[str, st.SearchStrategy[Pattern]] = {
    "everything": st.builds(everything),
    "causal": st.builds(causal),
    "sliding": st.builds(sliding, SIZES, st.integers(0, 9)),
    "sinks": st.builds(sinks, SIZES),
    "dilated": st.builds(dilated, st.integers(1, 9), st.integers(1, 6)),
    "chunked": st.builds(chunked, SIZES),
    "prefix_lm": st.builds(prefix_lm, SIZES),
    "policy": st.builds(pattern, policies()),
    "global_tokens": st.builds(
        global_tokens, SIZES | st.lists(st.integers(0, LENGTH), min_size=1, max_size=9)
    ),
    "random_blocks": st.builds(
        random_blocks, st.integers(1, 3), block=st.integers(1, 9), seed=st.integers(0, 2**40)
    ),
}


@st.composite
def documents_of_rows(draw: Any) -> Pattern:
    """Documents that begin elsewhere in every row, numbered with gaps."""
    rows = draw(st.sampled_from([1, BATCH]))
    steps = draw(st.lists(st.sampled_from([0] * 8 + [1, 7]), min_size=LENGTH * rows))
    return documents(torch.tensor(steps[: LENGTH * rows]).view(rows, LENGTH).cumsum(1) - 3)


@st.composite
def paddings(draw: Any) -> Pattern:
    """Real tokens anywhere, in every row elsewhere."""
    rows = draw(st.sampled_from([1, BATCH]))
    real = st.integers(0, 2**LENGTH - 1).map(lambda bits: [bits >> i & 1 for i in range(LENGTH)])
    return padding(torch.tensor(draw(st.lists(real, min_size=rows, max_size=rows))))


def lengths_of_documents() -> st.SearchStrategy[list[int]]:
    """Lengths that sum up to all there is."""
    ends = st.sets(st.integers(1, LENGTH - 1), max_size=6).map(sorted)
    return ends.map(
        lambda cuts: [stop - start for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True)]
    )


ALIKE: dict[str, st.SearchStrategy[Pattern]] = {
    **SPELLED,
    "documents": st.builds(documents, lengths_of_documents()) | documents_of_rows(),
    "padding": paddings(),
}


@st.composite
def of_heads(draw: Any) -> Pattern:
    """A pattern of its own for some heads."""
    some = draw(st.lists(st.one_of(*ALIKE.values()), min_size=1, max_size=3))
    choice = st.integers(0, len(some) - 1)
    return head_groups(some, draw(st.lists(choice, min_size=HEADS, max_size=HEADS)))


def combined(some: st.SearchStrategy[Pattern], *, inverted: bool) -> st.SearchStrategy[Pattern]:
    """Those, and up to three times combined."""
    for _ in range(3):
        some = st.one_of(
            some,
            st.builds(lambda one: ~one if inverted else one, some),
            st.builds(lambda one, two: one & two, some, some),
            st.builds(lambda one, two: one | two, some, some),
        )
    return some


spelled = combined(st.one_of(*SPELLED.values()), inverted=True)
anything = combined(st.one_of(*ALIKE.values(), of_heads()), inverted=True)
with_spans = combined(
    st.one_of(
        *(
            SPELLED[kind]
            for kind in ("causal", "sliding", "sinks", "chunked", "prefix_lm", "policy")
        )
    ),
    inverted=False,
)
KINDS = {**ALIKE, "head_groups": of_heads(), "combined": anything}
