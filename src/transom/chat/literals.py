"""The texts that a chat template names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Environment

__all__ = ["literals"]


def literals(template: str | Mapping[str, str] | Any) -> list[str]:
    """Every quoted text in a template, in order: among them what it looks for in a content.

    >>> literals("{% if '</think>' in m %}{{ m.split('</think>')[-1] + '<end>' }}{% endif %}")
    ['</think>', '<end>']
    """
    templates: Iterable[str] = template.values() if isinstance(template, Mapping) else [template]
    found = [
        value[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
        for source in templates
        for _, kind, value in Environment().lex(source)
        if kind == "string"
    ]
    return list(dict.fromkeys(text for text in found if text.strip()))
