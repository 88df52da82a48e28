"""Peak memory of one run, not of all runs before it."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from transom.evaluate import rss

SIZE = 200_000_000

linux = pytest.mark.skipif(not rss.reset_peak_rss(), reason="this system cannot reset the peak")


@linux
def test_the_peak_covers_memory_that_was_released_again():
    rss.reset_peak_rss()
    before = rss.peak_rss()
    held = np.ones(SIZE, dtype=np.uint8)
    del held
    assert SIZE * 0.9 < rss.peak_rss() - before < SIZE * 1.2


@linux
def test_a_reset_forgets_an_earlier_peak():
    held = np.ones(SIZE, dtype=np.uint8)
    high = rss.peak_rss()
    del held
    rss.reset_peak_rss()
    assert rss.peak_rss() < high - SIZE * 0.9


def test_without_a_reset_the_peak_is_that_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(rss, "STATUS", tmp_path / "none" / "status")
    monkeypatch.setattr(rss, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert rss.reset_peak_rss() is False
    unit = 1 if sys.platform == "darwin" else 1024
    assert rss.peak_rss() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
