"""Requests of the past through a cache: what each eviction policy makes of a trace."""

from transom.memory.replay.prefill import Prefill
from transom.memory.replay.run import Replay, Replayed, replay
from transom.memory.replay.trace import Trace, TraceBlock, read_trace

__all__ = ["Prefill", "Replay", "Replayed", "Trace", "TraceBlock", "read_trace", "replay"]
