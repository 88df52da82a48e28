"""Small random patterns for Hypothesis: of each constructor, and combined."""

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
    from_mask_mod,
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

# Patterns for texts of any length, whose `repr` can be read again.
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
    """Documents that begin at other places in each row; their numbers have gaps."""
    rows = draw(st.sampled_from([1, BATCH]))
    steps = draw(st.lists(st.sampled_from([0] * 8 + [1, 7]), min_size=LENGTH * rows))
    return documents(torch.tensor(steps[: LENGTH * rows]).view(rows, LENGTH).cumsum(1) - 3)


@st.composite
def paddings(draw: Any) -> Pattern:
    """Real tokens at any places, which differ by row."""
    rows = draw(st.sampled_from([1, BATCH]))
    real = st.integers(0, 2**LENGTH - 1).map(lambda bits: [bits >> i & 1 for i in range(LENGTH)])
    return padding(torch.tensor(draw(st.lists(real, min_size=rows, max_size=rows))))


def odd_pairs(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A `mask_mod` that no other pattern is alike."""
    return (q_idx * 7 + kv_idx * kv_idx) % 5 < 3


def odd_documents(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A `mask_mod` that looks positions up, by row and head."""
    return NUMBERS[b, h, q_idx] == NUMBERS[b, h, kv_idx]


NUMBERS = torch.randint(0, 3, (BATCH, HEADS, LENGTH), generator=torch.Generator().manual_seed(0))


def mask_mods() -> st.SearchStrategy[Pattern]:
    """Alike for all rows and heads, or not."""
    looking_up = {"batch": BATCH, "heads": HEADS, "length": LENGTH}
    return st.builds(from_mask_mod, st.just(odd_pairs)) | st.builds(
        lambda: from_mask_mod(odd_documents, **looking_up)
    )


def lengths_of_documents() -> st.SearchStrategy[list[int]]:
    """Lengths of documents whose sum is `LENGTH`."""
    ends = st.sets(st.integers(1, LENGTH - 1), max_size=6).map(sorted)
    return ends.map(
        lambda cuts: [stop - start for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True)]
    )


ALIKE: dict[str, st.SearchStrategy[Pattern]] = {
    **SPELLED,
    "documents": st.builds(documents, lengths_of_documents()) | documents_of_rows(),
    "padding": paddings(),
    "odd": st.builds(from_mask_mod, st.just(odd_pairs)),
}


@st.composite
def of_heads(draw: Any) -> Pattern:
    """Heads that have different patterns."""
    some = draw(st.lists(st.one_of(*ALIKE.values()), min_size=1, max_size=3))
    choice = st.integers(0, len(some) - 1)
    return head_groups(some, draw(st.lists(choice, min_size=HEADS, max_size=HEADS)))


def combined(some: st.SearchStrategy[Pattern], *, inverted: bool) -> st.SearchStrategy[Pattern]:
    """The same patterns, and combinations of them, up to three deep."""
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
KINDS = {**ALIKE, "mask_mod": mask_mods(), "head_groups": of_heads(), "combined": anything}
