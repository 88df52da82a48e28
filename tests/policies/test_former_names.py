"""Former names still work, and warn with the new name."""

from __future__ import annotations

import pytest

import transom.policies
from transom.policies import FutureQueries, Kept


def test_coming_is_now_future_queries() -> None:
    with pytest.warns(DeprecationWarning, match="FutureQueries"):
        assert transom.policies.Coming is FutureQueries
    with pytest.raises(AttributeError, match="Goings"):
        _ = transom.policies.Goings


def test_what_a_policy_reads_from_kept() -> None:
    queries = FutureQueries("mean", "covariance")
    kept = Kept("keys", "values", "attention", "positions", 3, 0.5, queries)
    with pytest.warns(DeprecationWarning, match=r"Kept\.attention_received"):
        assert kept.received == kept.attention_received == "attention"
    with pytest.warns(DeprecationWarning, match=r"Kept\.future_queries"):
        assert kept.coming is kept.future_queries is queries
