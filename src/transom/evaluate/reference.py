"""A long text that every installation has."""

from __future__ import annotations

__all__ = ["reference"]


def reference() -> str:
    """The Python language reference by topic, part of every CPython: 465,000 characters."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
