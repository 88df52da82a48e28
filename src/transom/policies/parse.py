"""Policies as text: `sinks:4,window=1020` and back, for the command line and config files."""

from __future__ import annotations

import re
from dataclasses import Field, fields
from difflib import get_close_matches
from typing import Any

from transom.errors import InputError, PolicyError
from transom.policies.base import Policy, spelled
from transom.policies.registry import known
from transom.units import to_tokens
from transom.validation import known_keywords

__all__ = ["as_policy", "parameters", "parse"]


@known_keywords
def parameters(policy: type[Policy]) -> dict[str, Any]:
    """The keys of a policy's text with their defaults, in order; `kv`, which all have, is last.

    >>> from transom.policies import Sinks
    >>> parameters(Sinks)
    {'sinks': 4, 'window': 1020, 'kv': 'auto'}
    """
    return {spelled(field.name): field.default for field in _in_order(policy)}


@known_keywords
def parse(text: str) -> Policy:
    """Read a policy from its text: a name, then the first parameter, then `key=value` pairs.

    Parameters left out take their defaults; the first may be named too.

    Raises:
        PolicyError: when it is not text, on an unknown name or key, a value that is not a whole
            number, or a parameter out of range. The message lists the known ones.

    >>> parse("sinks:4,window=1020")
    Sinks(sinks=4, window=1020)
    >>> from transom.policies import Window
    >>> parse("window:size=512") == parse(str(Window(512)))
    True
    """
    if not isinstance(text, str):
        raise PolicyError(
            f"a policy's text is {type(text).__name__}; expected text such as 'window:1024'."
        )
    name, _, rest = text.strip().partition(":")
    policies = known()
    if name not in policies:
        raise PolicyError(
            f"unknown policy {name!r}.{_meant(text)} Known policies: {', '.join(policies)}."
        )
    policy = policies[name]
    keys = {spelled(field.name): field for field in _in_order(policy)}
    given: dict[str, Any] = {}
    for index, item in enumerate(rest.split(",") if rest else ()):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals and index == 0 and len(keys) > 1:
            key, value = next(iter(keys)), key
        elif not equals:
            raise PolicyError(
                f"{text!r}: expected key=value, got {item.strip()!r}.{_takes(policy)}"
            )
        if key not in keys:
            raise PolicyError(f"{text!r}: {name} has no parameter {key!r}.{_takes(policy)}")
        if keys[key].name in given:
            raise PolicyError(f"{text!r}: {key} is given twice.")
        given[keys[key].name] = _value(text, key, value, keys[key])
    return policy(**given)


def as_policy(policy: Policy | str) -> Policy:
    """The policy itself, or the one that a text names.

    Raises:
        PolicyError: when it is neither a policy nor the text of one.
    """
    if isinstance(policy, str):
        return parse(policy)
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"a policy is {type(policy).__name__}; expected one of transom.policies, such as "
            "Window(1024), or its text, such as 'window:1024'."
        )
    return policy


def _meant(text: str) -> str:
    """A suggestion for a text that does not begin with a policy's name and a colon."""
    name, *rest = re.split(r"[:;,\s]+", text.strip(), maxsplit=1)
    near = name if name in known() else next(iter(get_close_matches(name.lower(), known())), None)
    if near is None:
        return ""
    if rest and re.split(r"[:;,=\s]", rest[0])[0] in known():
        return " One policy is expected; where several may be given, separate them with ';'."
    return f" Did you mean {':'.join([near, *rest])!r}?"


def _in_order(policy: type[Policy]) -> list[Field[Any]]:
    return sorted(fields(policy), key=lambda field: bool(field.kw_only))


def _value(text: str, key: str, value: str, field: Field[Any]) -> int | str:
    """A number, or a word if the parameter's type allows one."""
    try:
        return int(value) if value.lstrip("+-").isdecimal() else to_tokens(value)
    except InputError:
        if "str" in str(field.type).split(" | ") and value:
            return value
        raise PolicyError(
            f"{text!r}: {key} is {value!r}; expected a whole number of tokens, such as 4096 or 4k."
        ) from None


def _takes(policy: type[Policy]) -> str:
    known_keys = ", ".join(f"{key}={value}" for key, value in parameters(policy).items())
    return f" It takes {known_keys}."
