"""Metrics of windows, contexts, corpora and memory managers; no other package imports this."""

from transom.monitor.json_lines import JsonLines, json_lines
from transom.monitor.measured import Measured
from transom.monitor.monitor import ContextWindowMonitor

__all__ = ["ContextWindowMonitor", "JsonLines", "Measured", "json_lines"]
