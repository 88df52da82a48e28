"""Sixty thousand tokens in the memory of the first few hundred."""

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
    """Resident set size of this process in bytes, but for what is not the context's.

    Those are the layouts that all contexts share, of which at most 64 are kept (10 MB here, and 60
    passes do not make so many), and what the C library holds of memory that was given back to it.
    """
    layout.cache_clear()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
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
    # A full cache of the tokens read since would hold 41 MB more.
    assert resident() - before < 8 * 2**20
    assert context.usage.seen == TOKENS
    assert context.usage.kept <= 256
