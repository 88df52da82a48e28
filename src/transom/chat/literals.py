"""The quoted texts in the source of a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["literals"]


def literals(template: str | Mapping[str, str]) -> list[str]:
    """Every quoted text in a template, in order. Some of them it looks for in messages.

    Args:
        template: one, or several by name.

    >>> literals("{% if '</think>' in m %}{{ m.split('</think>')[-1] + '<end>' }}{% endif %}")
    ['</think>', '<end>']
    """
    from jinja2 import Environment  # here, because only the extra `torch` installs it

    templates: Iterable[str] = template.values() if isinstance(template, Mapping) else [template]
    found = [
        value[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
        for source in templates
        for _, kind, value in Environment().lex(source)
        if kind == "string"
    ]
    return list(dict.fromkeys(text for text in found if text.strip()))
