"""Windows as values: one window, and a batch of windows in arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError, MissingExtraError
from transom.tokens import TokenIds

__all__ = ["Batch", "Mask", "TokenWindow", "writable"]

Mask = NDArray[np.integer] | NDArray[np.bool_]  # 1 and 0, or True and False


class TokenWindow(NamedTuple):
    """One window; `(size,)` arrays, read-only.

    Attributes:
        ids: token ids, special ids and padding included.
        attention_mask: uint8, 0 for padding.
        score_mask: uint8, 1 for tokens to score here. Over all windows every token is scored
            once, except the first of each document, which nothing predicts. When windows do not
            overlap and have no `bos_id`, the first token of a window is scored too: the last token
            of the window before it predicts it.
        start: position of the first token, counted over all tokens added.
        document: number of the document of that token.
        offsets: `(size, 2)` int64, where each token starts and stops in the text; 0 and 0 for
            padding and special ids. None when no offsets were given.
        position_ids: int32, 0 at the start of the window and of each document in it, and for
            padding. None unless packed.
        cu_seqlens: `(documents in the window + 1,)` int32, where each document starts within the
            window, then where the last one stops. None unless packed.
    """

    ids: TokenIds
    attention_mask: Mask
    score_mask: Mask
    start: int
    document: int
    offsets: NDArray[np.int64] | None = None
    position_ids: NDArray[np.integer] | None = None
    cu_seqlens: NDArray[np.int32] | None = None

    def torch(self) -> TokenWindow:
        """The same with tensors, which share the memory of the arrays; do not write to them."""
        window: TokenWindow = _tensors(self)
        return window


class Batch(NamedTuple):
    """Several windows; `(windows, size)` arrays. See `TokenWindow`.

    In buffers, ids may have any integer dtype that holds the vocabulary, and masks any integer or
    boolean dtype. Tensors in CPU memory work as well.
    """

    ids: TokenIds
    attention_mask: Mask
    score_mask: Mask
    position_ids: NDArray[np.integer] | None = None

    def torch(self) -> Batch:
        """The same batch with tensors, which share the memory of the arrays."""
        batch: Batch = _tensors(self)
        return batch


def writable(
    buffers: Iterable[object], windows: int, size: int, packed: bool, held: np.dtype[np.integer]
) -> Batch:
    """The first `windows` rows of the caller's buffers, as arrays that share their memory.

    Args:
        buffers: a `Batch`, or arrays or CPU tensors in its order.
        windows: how many rows to write.
        size: ids per row.
        packed: whether there must be a buffer for `position_ids` too.
        held: dtype of the ids to write.

    Raises:
        InputError: when buffers are missing, too small, or cannot hold the ids.
    """
    names = Batch._fields if packed else Batch._fields[:3]
    given = [buffer for buffer in buffers if buffer is not None]
    if len(given) != len(names):
        raise InputError(f"{len(given)} buffers were given; expected {', '.join(names)}.")
    arrays = []
    for name, buffer in zip(names, given, strict=True):
        try:
            array = buffer.numpy() if hasattr(buffer, "numpy") else buffer
        except (TypeError, RuntimeError) as error:
            raise InputError(f"the buffer for {name} is not in CPU memory: {error}") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iub":
            raise InputError(
                f"the buffer for {name} is {type(buffer).__name__} of "
                f"{getattr(array, 'dtype', 'no dtype')}; expected an array of whole numbers."
            )
        if array.ndim != 2 or len(array) < windows or array.shape[1] != size:
            raise InputError(
                f"the buffer for {name} has shape {array.shape}; expected ({windows}, {size}), "
                "or more rows."
            )
        arrays.append(array[:windows])
    room = arrays[0].dtype
    if room.kind == "b" or np.iinfo(room).max < np.iinfo(held).max:
        raise InputError(
            f"the buffer for ids is of {room}, which does not hold every id of {held}; expected "
            "int32, or int64 for a vocabulary beyond that."
        )
    return Batch(*arrays)


def _tensors(arrays: Any) -> Any:
    try:
        torch = import_module("torch")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "tensors need torch, which is not installed: pip install 'transom[torch]'."
        ) from error
    with warnings.catch_warnings():
        # A tensor cannot be read-only, and the arrays must not be copied.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return type(arrays)(
            *(torch.from_numpy(item) if isinstance(item, np.ndarray) else item for item in arrays)
        )
