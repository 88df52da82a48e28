"""Former names still work, and warn with the new name."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.opened_tiers import KINDS, Opened
from transom.memory import ContextMemoryManager


def test_lent_is_now_borrowed():
    with ContextMemoryManager(2**22, vocab_size=50_000) as manager:
        manager.add_context("a", np.arange(1000))
        seen = manager.get_context("a")
        manager.remove_context("a")
        stats = manager.stats()
        with pytest.warns(DeprecationWarning, match=r"Stats\.lent is now Stats\.borrowed") as told:
            assert stats.lent == stats.borrowed > 0
        assert told[0].filename == __file__
        del seen


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_now_headers(kind, tmp_path):
    with Opened(kind, tmp_path, 2**20) as opened:
        opened.tier.store(1, b"x", b"old")
        with pytest.warns(DeprecationWarning, match=r"Tier\.label is now Tier\.header") as told:
            assert opened.tier.label(1) == b"old"
        assert told[0].filename == __file__
        with pytest.warns(DeprecationWarning, match=r"now Tier\.replace_header") as told:
            opened.tier.relabel(1, b"new")
        assert told[0].filename == __file__
        assert opened.tier.header(1) == b"new"


def test_discard_is_now_remove(tmp_path):
    with Opened("redis", tmp_path, 2**20) as opened:
        opened.tier[1] = b"x"
        with pytest.warns(DeprecationWarning, match=r"now RedisTier\.remove") as told:
            assert opened.tier.discard(1) is True
        assert told[0].filename == __file__
        assert opened.tier.remove(1) is False
