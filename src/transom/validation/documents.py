"""What may be given beside ids: where documents end, and where in the text tokens are."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.validation.token_ids import check_ids

__all__ = ["checked_ends", "checked_offsets"]


def checked_ends(documents: Iterable[int] | None, length: int) -> list[int]:
    """Where among `length` ids documents end, ascending; none for None.

    Raises:
        InputError: when they do not ascend, or are not between 0 and `length`.
    """
    if documents is None:
        return []
    try:
        ends: list[int] = check_ids(documents, length + 1).tolist()
    except InputError as error:
        raise InputError(
            f"documents must end at 0 to {length}, counted in these ids: {error}"
        ) from error
    if any(a >= b for a, b in pairwise(ends)):
        raise InputError(f"documents end at {ends!r:.80}; expected ascending, each once.")
    return ends


def checked_offsets(offsets: Any, length: int, before: bool | None) -> NDArray[Any] | None:
    """Where `length` tokens start and stop, `(length, 2)`; None for None.

    Args:
        before: whether the tokens before these came with offsets; None when there were none.

    Raises:
        InputError: when they are something else, or given for some tokens only.
    """
    if not length:
        return None
    if before is not None and before == (offsets is None):
        raise InputError(
            f"offsets were {'' if before else 'not '}given before and are "
            f"{'not ' if offsets is None else ''}now; expected them for all tokens or none."
        )
    if offsets is None:
        return None
    placed = np.asarray(offsets)
    if placed.shape != (length, 2) or placed.dtype.kind not in "iu":
        raise InputError(
            f"offsets are {placed.dtype} of shape {placed.shape}; expected whole numbers, "
            f"({length}, 2): where each token starts and stops."
        )
    return placed
