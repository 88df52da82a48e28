"""The sliding window: overlapping windows over everything that was added, or over a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transom.policies import Chunked
from transom.tokens import ANY_VOCABULARY, TokenBuffer, TokenIds, check_ids
from transom.validation import IdsLike, checked_ends, checked_offsets, known_keywords
from transom.windows.base import TokenState
from transom.windows.batch import Batch, TokenWindow
from transom.windows.blocks import Block, array_blocks, stream_blocks
from transom.windows.cut import Cut, Side
from transom.windows.strided import TokenWindows

__all__ = ["SlidingWindow"]


@known_keywords
class SlidingWindow(TokenState):
    """Windows of `window_size` ids that start `stride` tokens apart.

    There are two ways to use it. Add all tokens with `add_tokens`, then read windows by number
    with `get_windows` or `batch`. Or stream ids with `feed`, which yields windows as they are
    finished, in constant memory, and end with `flush`.

    Each window has at least one token that no window before it has. Only the last window of a
    document may have fewer tokens than fit; it is padded. Windows do not cross from one document
    into the next unless `packed`.

    Args:
        window_size: ids per window, special ids and padding included.
        stride: tokens from the start of one window to the start of the next, by default half of
            `window_size`. Note that other libraries often call the overlap a stride.
        overlap: tokens that a window shares with the one before it; instead of `stride`.
        pad_id: the id that fills a window that is not full.
        padding_side: `"right"` or `"left"`.
        drop_last: leave out windows that are not full.
        bos_id, eos_id: ids before and after the tokens of each window; they count in
            `window_size` and are never scored.
        packed: let windows cross from one document into the next; they then have `cu_seqlens`,
            and `position_ids` that start over in each document.
        vocab_size: ids are below it, special ids and padding too.

    Raises:
        InputError: when settings make no sense.

    >>> window = SlidingWindow(window_size=4, stride=2)
    >>> window.add_tokens(range(5, 10))
    >>> for w in window.get_windows():
    ...     print(w.start, w.ids, w.attention_mask, w.score_mask)
    0 [5 6 7 8] [1 1 1 1] [0 1 1 1]
    2 [7 8 9 0] [1 1 1 0] [0 0 1 0]
    """

    name: ClassVar[str] = "sliding"
    summary: ClassVar[str] = "overlapping windows over everything added, or over a stream"

    _offsets: TokenBuffer | None
    _windows: TokenWindows | None

    def __init__(
        self,
        window_size: int = 512,
        stride: int | None = None,
        *,
        overlap: int | None = None,
        pad_id: int = 0,
        padding_side: Side = "right",
        drop_last: bool = False,
        bos_id: int | None = None,
        eos_id: int | None = None,
        packed: bool = False,
        vocab_size: int = ANY_VOCABULARY,
    ) -> None:
        self.cut = Cut.of(
            window_size,
            stride,
            overlap,
            vocab_size=self._whole("vocab_size", vocab_size, unit="ids"),
            pad_id=pad_id,
            padding_side=padding_side,
            drop_last=drop_last,
            bos_id=bos_id,
            eos_id=eos_id,
            packed=packed,
        )
        super().__init__(vocab_size)

    @property
    def policy(self) -> Chunked:
        """What the newest token of a document sees: all tokens before it in the newest window."""
        return Chunked(self.cut.content, chunk=self.cut.stride)

    @property
    def ids(self) -> TokenIds:
        """The tokens of the newest window, without special ids and padding; read-only."""
        return self._tokens.rows[self._newest - self._tokens.first :]

    @property
    def nbytes(self) -> int:
        offsets = self._offsets.nbytes if self._offsets is not None else 0
        return self._tokens.nbytes + self._starts.nbytes + offsets

    def add_tokens(
        self,
        ids: IdsLike,
        *,
        documents: Iterable[int] | None = None,
        offsets: ArrayLike | None = None,
    ) -> None:
        """Add the next ids: to the open document, or to a new one.

        Args:
            ids: a list, a range, an iterator, or a 1-D array or tensor of whole numbers.
            documents: the places among these ids at which documents end, ascending. After the
                last end, a document is open and continues with the next call; the length of `ids`
                as the last end closes it. See also `end_document`.
            offsets: `(tokens, 2)`, where each token starts and stops in the text. Give them for
                all tokens, or for none.

        Raises:
            InputError: when one of these cannot be used; nothing is changed then.
        """
        checked = check_ids(ids, self.vocab_size)
        self._take(checked, checked_ends(documents, len(checked)).tolist(), offsets)

    def end_document(self) -> None:
        """End the open document, if there is one: what is added next is another document."""
        self._take(np.empty(0, dtype=self._dtype), (0,))

    def get_windows(self) -> TokenWindows:
        """The windows of the tokens held, without those that `feed` has yielded.

        A sequence that makes windows when they are asked for, and does not change when more is
        added. The last document is cut as if it ended here.
        """
        if self._windows is None:
            self._windows = TokenWindows(
                self.cut,
                self._tokens.rows,
                self._edges,
                first=self._tokens.first,
                origin=self._origin,
                skipped=self._given,
                first_document=self._starts.first,
                offsets=None
                if self._offsets is None
                else self._offsets.rows.astype(np.int64, copy=False),
            )
        return self._windows

    def batch(self, start: int, stop: int, out: Iterable[object] | None = None) -> Batch:
        """Windows `start` to `stop`, or to the last one, as arrays `(windows, window_size)`.

        Args:
            out: buffers to write to: a `Batch`, or arrays or CPU tensors for ids, attention mask,
                score mask and, when packed, position ids. By default new arrays.

        Raises:
            InputError: when a buffer is too small, or of a dtype that cannot hold the ids.
        """
        return self.get_windows().batch(slice(start, stop), out)

    def buffers(self, windows: int) -> Batch:
        """New arrays for `windows` windows, to reuse as `out` of `batch`."""
        return self.get_windows().buffers(windows)

    def feed(self, ids: IdsLike, *, offsets: ArrayLike | None = None) -> Iterator[TokenWindow]:
        """Add the next ids, and yield the windows that are finished.

        Memory stays constant, also when `ids` is an endless iterator: tokens that no later window
        needs are forgotten. `flush` returns the last windows. Windows that were not taken from
        this iterator come from the next one. When an id cannot be used, the ids before its block
        of 8,192 were added.

        Args:
            ids: see `add_tokens`; an iterator is read as windows are taken.
            offsets: see `add_tokens`; not with an iterator.

        Raises:
            InputError: when they cannot be used.
        """
        if isinstance(ids, Iterator) and offsets is None:
            return self._feed(stream_blocks(ids))
        checked = check_ids(ids, self.vocab_size)
        return self._feed(array_blocks(checked, self._placed(offsets, len(checked))))

    def flush(self) -> TokenWindows:
        """End the document, return all windows that are left, and forget all tokens."""
        self.end_document()
        windows = self.get_windows()
        self._tokens.drop(len(self._tokens))
        if self._offsets is not None:
            self._offsets.drop(len(self._offsets))
        self._starts.drop(len(self._starts))
        self._origin = self.seen
        self._given = 0
        self._windows = None
        return windows

    def clear(self) -> None:
        self.seen = 0
        self._tokens = TokenBuffer(self._dtype)
        self._offsets = None
        self._starts = TokenBuffer(np.int64)  # the position at which each document starts
        self._open = False  # whether the last document is open
        self._origin = 0  # the position from which packed windows count
        self._given = 0  # windows from there on that `feed` has yielded
        self._windows = None

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def _edges(self) -> NDArray[np.int64]:
        return np.append(self._starts.rows, self.seen)

    @property
    def _newest(self) -> int:
        """The position at which the newest window starts."""
        starts = self._starts.rows
        unit = self._origin if self.cut.packed or not len(starts) else int(starts[-1])
        return unit + max(0, int(self.policy.local_start(self.seen - unit - 1)))

    def _take(
        self, ids: TokenIds, ends: Sequence[int] = (), offsets: ArrayLike | None = None
    ) -> None:
        placed = self._placed(offsets, len(ids))
        if placed is not None:
            if self._offsets is None:
                self._offsets = TokenBuffer(np.int64, (2,))
            self._offsets.append(placed)
        starts = [at for at in ends if at < len(ids)]
        if len(ids) and not self._open and 0 not in starts:
            starts.insert(0, 0)
        self._starts.append(np.array(starts, dtype=np.int64) + self.seen)
        self._tokens.append(ids)
        self.seen += len(ids)
        if len(ids) or len(ends):
            self._open = not (len(ends) and ends[-1] == len(ids))
            self._windows = None

    def _placed(self, offsets: ArrayLike | None, length: int) -> NDArray[np.int64] | None:
        before = None if not self.seen else self._offsets is not None
        return checked_offsets(offsets, length, before)

    def _feed(self, blocks: Iterator[Block]) -> Iterator[TokenWindow]:
        for ids, offsets in blocks:
            self.add_tokens(ids, offsets=offsets)
            windows = self.get_windows()
            for window in islice(windows, len(windows) - self._unfinished):
                self._given += 1
                self._windows = None
                yield window
            self._forget_yielded()

    @property
    def _unfinished(self) -> int:
        """How many of the last windows may still change: 1 when the last one is padded."""
        if not (self._open or self.cut.packed):
            return 0
        starts = self._starts.rows
        tokens = self.seen - (self._origin if self.cut.packed else int(starts[-1]))
        return int(self.cut.count(tokens) - self.cut.full(tokens))

    def _forget_yielded(self) -> None:
        """Forget the tokens that neither the newest window nor a later one has."""
        documents = self._starts.rows
        if self.cut.packed:
            self._starts.drop(max(0, int(np.searchsorted(documents, self._newest, "right")) - 1))
        elif len(documents):
            self._given -= int(self.cut.count(np.diff(documents)).sum())
            self._starts.drop(len(documents) - 1)
        count = self._newest - self._tokens.first
        self._tokens.drop(count)
        if self._offsets is not None:
            self._offsets.drop(count)
        self._windows = None

    def _settings(self) -> dict[str, object]:
        settings = asdict(self.cut)
        return {"window_size": settings.pop("size"), **settings, "vocab_size": self.vocab_size}

    def _content(self) -> tuple[ArrayLike, ...]:
        offsets = self._offsets.rows if self._offsets is not None else ()
        state = (self.seen, self._open, self._origin, self._given, self._starts.first)
        return (*state, self._starts.rows, self._tokens.rows, offsets)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_windows": None}
