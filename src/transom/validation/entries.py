"""What callers gave: ids, names and seconds, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.validation.numbers import whole_number
from transom.validation.token_ids import check_ids

__all__ = ["check_names", "check_texts", "given_ids", "given_quotas", "given_seconds"]

LONGEST = 1024  # bytes of a namespace or an id, in UTF-8


def given_ids(ids: Any, vocab_size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """`ids` as a contiguous array of `dtype`, sharing their memory where they are one.

    Raises:
        InputError: as `check_ids` does.
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
    """See that both are text, and not too long to be written beside what they name.

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


def check_texts(owner: str, context_id: Any, namespace: Any) -> None:
    """See that both are text; what is too long is nowhere.

    Raises:
        InputError: when one is not.
    """
    if isinstance(context_id, str) and isinstance(namespace, str):
        return
    what = "namespace" if isinstance(context_id, str) else "context_id"
    given = namespace if isinstance(context_id, str) else context_id
    raise InputError(f"{owner}: {what} is {given!r} ({type(given).__name__}); expected text.")


def given_quotas(owner: str, quotas: Any) -> dict[str, int]:
    """`quotas` as bytes by namespace; None for none.

    Raises:
        InputError: when they are not.
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


def given_seconds(owner: str, name: str, value: Any, least: float = 1e-9) -> float:
    """`value` as a number of seconds, at least `least` and finite.

    Raises:
        InputError: when it is none.
    """
    ok = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not ok or not math.isfinite(value) or value < least:
        raise InputError(
            f"{owner}: {name} is {value!r}; expected a number of seconds, "
            f"{'0 or more' if least == 0 else 'more than 0'}."
        )
    return float(value) if value else 0.0
