"""Checks of what is given beside token ids: document ends and text offsets."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.validation.token_ids import check_ids

__all__ = ["checked_ends", "checked_offsets"]


def checked_ends(
    documents: Iterable[int] | None, length: int, *, repeated: bool = False
) -> NDArray[np.int64]:
    """Where among `length` ids documents end, ascending; none for None.

    Args:
        repeated: whether two documents may end at one place, the second having no tokens.

    Raises:
        InputError: when they do not ascend, or are not between 0 and `length`.
    """
    if documents is None:
        return np.empty(0, dtype=np.int64)
    try:
        ends = check_ids(documents, length + 1).astype(np.int64)
    except InputError as error:
        raise InputError(
            f"documents must end at 0 to {length}, counted in these ids: {error}"
        ) from error
    if (np.diff(ends) < (0 if repeated else 1)).any():
        expected = "ascending numbers" if repeated else "ascending, each once"
        raise InputError(f"documents end at {ends.tolist()!r:.80}; expected {expected}.")
    return ends


def checked_offsets(offsets: object, length: int, before: bool | None) -> NDArray[np.int64] | None:
    """Where `length` tokens start and stop in the text, `(length, 2)`; None for None.

    Args:
        offsets: what was given.
        length: how many tokens there are.
        before: whether earlier tokens came with offsets; None when there were no earlier tokens.

    Raises:
        InputError: when they are something else, or are given for some tokens only.
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
