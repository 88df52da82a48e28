"""Sixty thousand tokens in the memory of the first few hundred."""

from __future__ import annotations

import gc
import os

import pytest

from tests.kv.models import tiny, tokens
from transom.context import Context
from transom.policies import Chunked, ModelShape, Policy, Sinks, Window, kv_bytes_bound

TOKENS = 60_000
WARM = 6_000


def resident() -> int:
    """Resident set size of this process in bytes."""
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
    gc.collect()
    before = resident()
    for start in range(WARM, TOKENS, 1000):
        context.append(ids[start : start + 1000])
        assert context.cache.nbytes == bound
    gc.collect()
    # A full cache of the tokens read since would hold 41 MB more. What the allocator and the tables
    # of layouts take, ever more slowly, is 2 to 11 MB by machine.
    assert resident() - before < 20 * 2**20
    assert context.usage.seen == TOKENS
    assert context.usage.kept <= 256
