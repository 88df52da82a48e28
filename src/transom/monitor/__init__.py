"""Numbers of what goes on in windows, contexts, corpora and memory; nothing else knows of it."""

from transom.monitor.json_lines import JsonLines, json_lines
from transom.monitor.monitor import ContextWindowMonitor, Measured

__all__ = ["ContextWindowMonitor", "JsonLines", "Measured", "json_lines"]
