"""Checks for memory managers: ids, names of contexts, quotas and seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from transom.errors import InputError
from transom.validation.numbers import whole_number
from transom.validation.token_ids import TokenIds, check_ids

__all__ = ["check_names", "check_texts", "given_ids", "given_quotas", "given_seconds"]

LONGEST = 1024  # bytes of a namespace or an id, in UTF-8


def given_ids(ids: object, vocab_size: int, dtype: np.dtype[np.integer]) -> TokenIds:
    """`ids` as a contiguous array of `dtype`; it shares their memory when they are one already.

    Raises:
        InputError: see `check_ids`.
    """
    if (
        type(ids) is np.ndarray
        and ids.dtype == dtype
        and dtype.kind == "u"
        and ids.ndim == 1
        and ids.flags.c_contiguous
        and (not ids.size or ids.max() < vocab_size)
    ):
        return ids
    array = check_ids(ids, vocab_size)
    if array.dtype != dtype or not array.flags.c_contiguous:
        array = np.ascontiguousarray(array, dtype=dtype)
    return array


def check_names(owner: str, context_id: str, namespace: str) -> None:
    """Check that both are text, and short enough for an entry header.

    Raises:
        InputError: when they are not.
    """
    check_texts(owner, context_id, namespace)
    for what, text in (("context_id", context_id), ("namespace", namespace)):
        if 4 * len(text) > LONGEST and len(text.encode("utf-8", "surrogatepass")) > LONGEST:
            raise InputError(
                f"{owner}: {what} has {len(text):,} characters; expected at most {LONGEST:,} bytes "
                "as UTF-8. Use a hash of it."
            )


def check_texts(owner: str, context_id: object, namespace: object) -> None:
    """Check that both are text; for look-ups, where a name that is too long is just not found.

    Raises:
        InputError: when one is not.
    """
    if isinstance(context_id, str) and isinstance(namespace, str):
        return
    what = "namespace" if isinstance(context_id, str) else "context_id"
    given = namespace if isinstance(context_id, str) else context_id
    raise InputError(f"{owner}: {what} is {given!r} ({type(given).__name__}); expected text.")


def given_quotas(owner: str, quotas: object) -> dict[str, int]:
    """`quotas` as bytes by namespace; empty for None.

    Raises:
        InputError: when it is not a mapping of that kind.
    """
    if not (quotas is None or isinstance(quotas, Mapping)):
        raise InputError(
            f"{owner}: quotas is {quotas!r}; expected bytes by namespace, such as "
            "{'alice': 2**20}."
        )
    for name in quotas or ():
        check_names(f"{owner}, in quotas", "", name)
    return {
        name: whole_number(owner, f"quotas[{name!r}]", quota, 1, unit="bytes")
        for name, quota in (quotas or {}).items()
    }


def given_seconds(owner: str, name: str, value: object, least: float = 1e-9) -> float:
    """`value` as a number of seconds, at least `least` and finite.

    Raises:
        InputError: when it is not such a number.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.integer, np.floating))
        or not math.isfinite(value)
        or value < least
    ):
        raise InputError(
            f"{owner}: {name} is {value!r}; expected a number of seconds, "
            f"{'0 or more' if least == 0 else 'more than 0'}."
        )
    return float(value) if value else 0.0
