"""Every policy by name; a file in this folder adds one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from transom.errors import PolicyError
from transom.plugins import defined_in, plugins
from transom.policies.base import Policy

__all__ = ["known"]

ENTRY_POINTS = "transom.policies"
LISTED_FIRST = (  # simple ones first; others follow by name
    *("full", "window", "sinks", "chunked", "hierarchical", "heavy-hitters", "tova", "snapkv"),
    *("keydiff", "key-norm", "expected-attention"),
)


@cache
def known() -> Mapping[str, type[Policy]]:
    """Every policy by name: the built-in ones, then those that installed packages register.

    The built-in ones are all that modules of `transom.policies` define. A package registers a
    policy class under the entry-point group `transom.policies`.

    Raises:
        PolicyError: when two policies claim one name or one has none, or an entry point is not a
            policy.
    """
    built_in = defined_in("transom.policies", Policy)
    return plugins(ENTRY_POINTS, Policy, sorted(built_in, key=_place), PolicyError)


def _place(policy: type[Policy]) -> tuple[int, str]:
    name = getattr(policy, "name", "")
    return LISTED_FIRST.index(name) if name in LISTED_FIRST else len(LISTED_FIRST), name
