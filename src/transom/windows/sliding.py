"""The sliding window: overlapping windows over everything that was added, or over a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.policies import Chunked
from transom.tokens import ANY_VOCABULARY, TokenBuffer, check_ids
from transom.validation import checked_ends, checked_offsets, known_keywords
from transom.windows.base import TokenState
from transom.windows.batch import Batch, TokenWindow
from transom.windows.cut import Cut, Side
from transom.windows.strided import TokenWindows

__all__ = ["SlidingWindow"]

BLOCK = 8192  # ids taken from a stream at a time


@known_keywords
class SlidingWindow(TokenState):
    """Windows of `window_size` ids that start `stride` tokens apart.

    Either everything is added and kept, and windows are had by number (`add_tokens`, then
    `get_windows` or `batch`), or ids come as a stream and windows are given out as they are
    finished, in constant memory (`feed`, and at the end `flush`).

    Each window has at least one token that no window before it has; only the last one of a
    document may lack tokens, and is padded. Windows do not cross from one document into the next
    unless `packed`.

    Args:
        window_size: ids per window, special ids and padding included.
        stride: tokens from the start of one window to the start of the next. This is what the
            word means here; elsewhere it often means the overlap. Default: half of `window_size`.
        overlap: tokens that a window shares with the one before it; instead of `stride`.
        pad_id: what fills a window that is not full.
        padding_side: `"right"` or `"left"`.
        drop_last: leave out windows that are not full.
        bos_id, eos_id: put before and after the tokens of each window, counted in `window_size`
            and never scored.
        packed: let windows cross from one document into the next; they then have `position_ids`
            that start over in each, and `cu_seqlens`.
        vocab_size: ids are below it, special ids and padding too.

    Raises:
        InputError: on settings that make no sense.

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
        """What the newest token of a document sees: all before it in the newest window."""
        return Chunked(self.cut.content, chunk=self.cut.stride)

    @property
    def ids(self) -> NDArray[Any]:
        """The tokens of the newest window, without special ids and padding; read-only."""
        return self._tokens.rows[self._newest - self._tokens.first :]

    @property
    def nbytes(self) -> int:
        offsets = self._offsets.nbytes if self._offsets is not None else 0
        return self._tokens.nbytes + self._starts.nbytes + offsets

    def add_tokens(
        self, ids: Any, *, documents: Iterable[int] | None = None, offsets: Any = None
    ) -> None:
        """Take the next ids; they go on the document that is open, or open one.

        Args:
            ids: a list, a range, an iterator, or a 1-D array or tensor of whole numbers.
            documents: where among these ids one document ends and another starts, ascending; the
                length of `ids` ends the last one, which is otherwise open and goes on with the
                next call. See also `end_document`.
            offsets: `(tokens, 2)`, where in the text each token starts and stops. Either for all
                tokens, or for none.

        Raises:
            InputError: when one of these cannot be used; nothing is changed then.
        """
        checked = check_ids(ids, self.vocab_size)
        self._take(checked, checked_ends(documents, len(checked)), offsets)

    def end_document(self) -> None:
        """What is added from here on is another document; nothing happens when none is open."""
        self._take(np.empty(0, dtype=self._dtype), (0,))

    def get_windows(self) -> TokenWindows:
        """The windows of what is held, those left out that `feed` has given out.

        A sequence that makes windows when they are asked for and stays as it is when more is
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
                offsets=self._offsets.rows if self._offsets is not None else None,
            )
        return self._windows

    def batch(self, start: int, stop: int, out: Any = None) -> Batch:
        """Windows `start` to `stop`, or to the last one, as arrays `(windows, window_size)`.

        Args:
            out: buffers to write to: a `Batch`, or arrays or CPU tensors for ids, attention mask
                and score mask, and position ids where packed. By default new ones.

        Raises:
            InputError: when a buffer is too small, or of a dtype that cannot hold the ids.
        """
        return self.get_windows().batch(slice(start, stop), out)

    def buffers(self, windows: int) -> Batch:
        """New arrays for that many windows, to be given to `batch` again and again."""
        return self.get_windows().buffers(windows)

    def feed(self, ids: Any, *, offsets: Any = None) -> Iterator[TokenWindow]:
        """Take the next ids, and give out the windows that are finished.

        Memory stays constant, also when `ids` is an iterator without end: what no coming window
        needs is let go. `flush` gives the last window. Windows that were not taken from this
        iterator come from the next one. If an id cannot be used, those before its block of
        8,192 have been taken.

        Args:
            ids: as for `add_tokens`; an iterator is read as windows are taken.
            offsets: as for `add_tokens`; not with an iterator.

        Raises:
            InputError: when they cannot be used.
        """
        if isinstance(ids, Iterator) and offsets is None:
            return self._feed(iter(lambda: (list(islice(ids, BLOCK)), None), ([], None)))
        checked = check_ids(ids, self.vocab_size)
        placed = self._placed(offsets, len(checked))
        blocks = [slice(at, at + BLOCK) for at in range(0, len(checked), BLOCK)]
        return self._feed(
            (checked[block], None if placed is None else placed[block]) for block in blocks
        )

    def flush(self) -> TokenWindows:
        """End the document, give out all windows that are left, and let go of all tokens."""
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
        self._starts = TokenBuffer(np.int64)  # of documents; the number of one is its row
        self._open = False  # whether the last document goes on
        self._origin = 0  # where packed windows are counted from
        self._given = 0  # windows from there on that were given out
        self._windows = None

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def _edges(self) -> NDArray[np.int64]:
        return np.append(self._starts.rows, self.seen)

    @property
    def _newest(self) -> int:
        """Position at which the newest window starts."""
        starts = self._starts.rows
        unit = self._origin if self.cut.packed or not len(starts) else int(starts[-1])
        return unit + max(0, int(self.policy.local_start(self.seen - unit - 1)))

    def _take(
        self, ids: NDArray[Any], ends: tuple[int, ...] | list[int] = (), offsets: Any = None
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

    def _placed(self, offsets: Any, length: int) -> NDArray[Any] | None:
        before = None if not self.seen else self._offsets is not None
        return checked_offsets(offsets, length, before)

    def _feed(self, blocks: Iterable[tuple[Any, Any]]) -> Iterator[TokenWindow]:
        for ids, offsets in blocks:
            self.add_tokens(ids, offsets=offsets)
            windows = self.get_windows()
            for window in islice(windows, len(windows) - self._unfinished):
                self._given += 1
                self._windows = None
                yield window
            self._let_go()

    @property
    def _unfinished(self) -> int:
        """How many of the last windows may still change: 1 when the open document's is padded."""
        if not (self._open or self.cut.packed):
            return 0
        starts = self._starts.rows
        tokens = self.seen - (self._origin if self.cut.packed else int(starts[-1]))
        return int(self.cut.count(tokens) - self.cut.full(tokens))

    def _let_go(self) -> None:
        """Drop what neither a coming window nor the newest one has, all others being given out."""
        documents = self._starts.rows
        if self.cut.packed:
            self._starts.drop(max(0, int(np.searchsorted(documents, self._newest, "right")) - 1))
        elif len(documents):
            self._given -= int(self.cut.count(np.diff(documents)).sum())
            self._starts.drop(len(documents) - 1)
        gone = self._newest - self._tokens.first
        self._tokens.drop(gone)
        if self._offsets is not None:
            self._offsets.drop(gone)
        self._windows = None

    def _settings(self) -> dict[str, Any]:
        settings = asdict(self.cut)
        return {"window_size": settings.pop("size"), **settings, "vocab_size": self.vocab_size}

    def _content(self) -> tuple[Any, ...]:
        offsets = self._offsets.rows if self._offsets is not None else ()
        state = (self.seen, self._open, self._origin, self._given, self._starts.first)
        return (*state, self._starts.rows, self._tokens.rows, offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_windows": None}
