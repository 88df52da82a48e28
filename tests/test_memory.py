"""Sixty thousand tokens take no more memory than the first few hundred."""

from __future__ import annotations

import ctypes
import gc
import os

import pytest

from tests.helpers.models import tiny, tokens
from transom.attention.patterns.layout import layout
from transom.context import Context
from transom.policies import Chunked, ModelShape, Policy, Sinks, Window, kv_bytes_bound

TOKENS = 60_000
WARM = 6_000


def resident() -> int:
    """Resident set size of this process in bytes, without two parts that are not the context's.

    These are layouts that all contexts share (at most 64, here 10 MB; 60 passes make fewer), and
    memory that was freed but that the C library still holds.
    """
    layout.cache_clear()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has malloc_trim
    if trim is not None:
        trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
@pytest.mark.parametrize("policy", [Sinks(4, 252), Window(256), Chunked(256, 32)], ids=str)
def test_neither_kv_bytes_nor_rss_grow(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(TOKENS)
    bound = kv_bytes_bound(policy, ModelShape.from_config(model.config))
    context = Context(model, policy=policy, chunk=1000)
    for start in range(0, WARM, 1000):
        context.append(ids[start : start + 1000])
    before = resident()
    for start in range(WARM, TOKENS, 1000):
        context.append(ids[start : start + 1000])
        assert context.cache.nbytes == bound
    # A full cache would have grown by 41 MB.
    assert resident() - before < 8 * 2**20
    assert context.usage.seen == TOKENS
    assert context.usage.kept <= 256
