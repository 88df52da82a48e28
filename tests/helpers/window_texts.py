"""Ids for windows, for Hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

SIZES = st.integers(1, 12)


@st.composite
def texts(draw: Any) -> tuple[list[int], list[list[int]]]:
    """Ids as a whole and in pieces, some of which are empty."""
    ids = draw(st.lists(st.integers(0, 499), max_size=80))
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    return ids, [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
