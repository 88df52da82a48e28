"""Windows as values: one, and several in arrays that may be the caller's."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError, MissingExtraError

__all__ = ["Batch", "TokenWindow", "writable"]


class TokenWindow(NamedTuple):
    """One window; `(size,)` arrays, read-only.

    Attributes:
        ids: token ids, with special ids and padding if there are any.
        attention_mask: uint8, 0 for padding.
        score_mask: uint8, 1 for tokens that count here. Over all windows every token counts
            once, except the first of each document, which nothing predicts. Where windows do not
            overlap and have no `bos_id`, the first token of a window counts too: the last one of
            the window before predicts it.
        start: position of the first token, counted over all that was added.
        document: number of the document that token is in.
        offsets: `(size, 2)` int64, where in the text a token starts and stops; 0 and 0 for
            padding and special ids. None when no offsets were given.
        position_ids: int32, 0 at the start of the window and of each document in it, and for
            padding. None unless packed.
        cu_seqlens: `(documents in the window + 1,)` int32, where these start within the window,
            and where the last one stops. None unless packed.
    """

    ids: NDArray[Any]
    attention_mask: NDArray[Any]
    score_mask: NDArray[Any]
    start: int
    document: int
    offsets: NDArray[np.int64] | None = None
    position_ids: NDArray[Any] | None = None
    cu_seqlens: NDArray[np.int32] | None = None

    def torch(self) -> TokenWindow:
        """The same with tensors, which share the arrays' memory and are not to be written."""
        window: TokenWindow = _tensors(self)
        return window


class Batch(NamedTuple):
    """Several windows; `(windows, size)` arrays. See `TokenWindow`.

    As buffers, ids may be of any integer dtype that holds the vocabulary and the masks of any
    integer or boolean dtype; tensors in CPU memory will do as well.
    """

    ids: NDArray[Any]
    attention_mask: NDArray[Any]
    score_mask: NDArray[Any]
    position_ids: NDArray[Any] | None = None

    def torch(self) -> Batch:
        """The same with tensors, which share the arrays' memory."""
        batch: Batch = _tensors(self)
        return batch


def writable(buffers: Any, windows: int, size: int, packed: bool, held: np.dtype[Any]) -> Batch:
    """The first `windows` rows of the caller's buffers, as arrays that share their memory.

    Args:
        buffers: a `Batch`, or arrays or CPU tensors in its order.
        windows: rows that are to be written.
        size: ids per row.
        packed: whether there is a buffer for `position_ids` too.
        held: dtype of the ids that are to be written.

    Raises:
        InputError: when they are too few or too small, or cannot hold the ids.
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
        # A tensor cannot be read-only. Copying instead is what was asked not to be done.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return type(arrays)(
            *(torch.from_numpy(item) if isinstance(item, np.ndarray) else item for item in arrays)
        )
