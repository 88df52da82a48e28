"""Requests of the past through a cache: what each eviction policy makes of a trace."""

from transom.memory.replay.prefill import Prefill
from transom.memory.replay.run import Replayed, Run, replay
from transom.memory.replay.trace import Block, Trace, read_trace

__all__ = ["Block", "Prefill", "Replayed", "Run", "Trace", "read_trace", "replay"]
