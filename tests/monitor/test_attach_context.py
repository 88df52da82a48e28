"""A monitor on a real context."""

from __future__ import annotations

from tests.helpers.models import tiny, tokens
from transom import Context, ContextWindowMonitor, Window


def test_a_context_is_read_and_timed_but_its_forks_are_not() -> None:
    monitor = ContextWindowMonitor()
    context = Context(tiny("llama"), policy=Window(8), chunk=16)
    monitor.attach(context, "c")
    context.append(tokens(20))
    fork = context.fork()
    assert type(fork) is Context
    fork.append(tokens(5))
    context.score(tokens(5))
    monitor.poll()
    assert (context.usage.seen, fork.usage.seen) == (25, 25)
    times = monitor.get_statistics("processing_time", source="c")
    assert times["count"] == 2
    assert monitor.get_statistics("window_size")["last"] == context.usage.kept == 8
    assert monitor.get_statistics("memory_usage")["last"] == context.usage.kv_bytes
