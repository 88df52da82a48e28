"""Token ids as arrays, and the dtype that holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transom.validation import IdsLike, TokenIds, check_ids, known_keywords

__all__ = ["ANY_VOCABULARY", "TokenIds", "as_ids", "check_ids", "id_dtype"]

ANY_VOCABULARY = 2**31  # ids below this fit int32, which every library takes as an index


@known_keywords
def id_dtype(vocabulary: int) -> np.dtype[np.integer]:
    """The smallest dtype for the ids `0` to `vocabulary - 1`.

    Unsigned only below 32 bits: torch has no arithmetic on larger unsigned numbers.

    >>> id_dtype(49_152), id_dtype(128_256)
    (dtype('uint16'), dtype('int32'))
    """
    for dtype in (np.uint8, np.uint16, np.int32):
        if vocabulary - 1 <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int64)


@known_keywords
def as_ids(ids: IdsLike, vocabulary: int) -> NDArray[np.int64]:
    """A copy of `ids`, `(tokens,)` int64; see `check_ids` for what it takes.

    >>> as_ids(range(3), vocabulary=10)
    array([0, 1, 2])
    """
    return check_ids(ids, vocabulary).astype(np.int64)
