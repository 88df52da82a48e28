"""Token ids from whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.validation import check_ids, known_keywords

__all__ = ["ANY_VOCABULARY", "as_ids", "check_ids", "id_dtype"]

ANY_VOCABULARY = 2**31  # ids up to this fit int32, which every library takes as an index


@known_keywords
def id_dtype(vocabulary: int) -> np.dtype[Any]:
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
def as_ids(ids: Any, vocabulary: int) -> NDArray[np.int64]:
    """A copy of `ids`, `(tokens,)` int64; see `check_ids` for what is accepted.

    >>> as_ids(range(3), vocabulary=10)
    array([0, 1, 2])
    """
    return check_ids(ids, vocabulary).astype(np.int64)
