"""Appends to a corpus; readers see all of a commit or nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from transom.atomic_files import sync_folder
from transom.corpus.growing_files import GrowingFiles
from transom.corpus.lock import WriterLock
from transom.corpus.manifest import Manifest, write_manifest
from transom.errors import CorpusError, InputError
from transom.forks import Owner
from transom.tokens import TokenIds
from transom.tokens.json_line import JsonObject
from transom.validation import IdsLike, check_ids, checked_ends, known_keywords

__all__ = ["CorpusWriter"]

TOKENS_AT_ONCE = 1 << 17  # gathered in memory before they are written


@known_keywords
class CorpusWriter:
    """The only writer of a corpus, as a context manager.

    Before `commit`, no reader sees what was added, and it is lost if the process dies. Leaving the
    context commits. Leaving it by an exception gives up what was added since the last commit; if
    nothing was ever committed, the new corpus is removed. Readers continue with what they opened,
    in either case. A fork of the process cannot write: adding and committing raise `CorpusError`
    there, and leaving the context changes nothing.

    Attributes:
        tokens, documents: how many there are, uncommitted ones included.

    Notes:
        Several threads may add documents, each in one call. A document that is added in several
        calls needs one thread.
    """

    def __init__(
        self,
        folder: Path,
        read: Callable[[], Manifest],
        lock: WriterLock | None = None,
        unmake: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self._lock = lock or WriterLock(folder)
        self._unmake = unmake
        self._broken: str | None = None
        self._owner = Owner(f"the writer of {folder}", CorpusError)
        self._one_thread = RLock()
        try:
            self._committed = committed = read()  # read while holding the lock
            self._newest = committed  # the newest manifest that may be on disk
            self.tokens, self.documents = committed.tokens, committed.documents
            self._vocab_size = committed.vocab_size
            self._dtype = np.dtype(committed.dtype)
            self._pending: list[TokenIds] = []  # ids that are not in the files yet
            self._waiting = 0  # how many these are
            self._edges: list[NDArray[np.int64]] = []
            self._open = False  # whether a document is open
            with self._io():
                self._files = GrowingFiles(folder, committed)
            if not committed.ends.bytes:
                self._edges.append(np.zeros(1, dtype=np.int64))
        except BaseException:
            self._release(failed=True)
            raise

    @property
    def committed(self) -> Manifest:
        """The last commit, which readers see."""
        return self._committed

    def add_tokens(self, ids: IdsLike, *, documents: Iterable[int] | None = None) -> None:
        """Add the next ids: to the open document, or to a new one.

        Args:
            ids: a list, a range, an iterator, or a 1-D array or tensor of whole numbers.
            documents: the places among these ids at which documents end, ascending; each end makes
                a document, also one without tokens. After the last end, a document is open and
                continues with the next call. See also `end_document`.

        Raises:
            InputError: when these cannot be used; nothing is changed.
            CorpusError: when they cannot be written, as on a full disk; the writer cannot be used
                any more, and the corpus is as it was last committed.
        """
        with self._usable():
            checked = check_ids(ids, self._vocab_size)
            ends = checked_ends(documents, len(checked), repeated=True)
            with self._io():
                if len(checked):
                    # A copy: the caller may change the array.
                    self._pending.append(checked.astype(self._dtype))
                if len(ends):
                    self._edges.append(ends + self.tokens)
                    self.documents += len(ends)
                self.tokens += len(checked)
                self._waiting += len(checked)
                self._open = (self._open or len(checked) > 0) and not (
                    len(ends) and ends[-1] == len(checked)
                )
                if self._waiting >= TOKENS_AT_ONCE:
                    self._write()

    def end_document(self) -> None:
        """End the open document; without one, add a document without tokens."""
        self.add_tokens((), documents=(0,))

    def add_document(self, ids: IdsLike) -> None:
        """Add a whole document; see `add_tokens`."""
        with self._usable():
            if self._open:
                raise InputError("a document is open; expected end_document() before another one.")
            checked = check_ids(ids, self._vocab_size)
            self.add_tokens(checked, documents=(len(checked),))

    def add_source(self, source: JsonObject) -> None:
        """Note where documents came from, as a line of JSON.

        Raises:
            InputError: when it cannot be written as JSON; nothing is changed.
        """
        with self._usable():
            try:
                line = json.dumps(source).encode() + b"\n"  # As ASCII: file names may not be UTF-8.
            except (TypeError, ValueError, RecursionError) as error:
                raise InputError(
                    f"cannot note the source {source!r:.80} as JSON ({error}); expected text, "
                    "numbers, lists and dictionaries of these."
                ) from error
            with self._io():
                self._files.write_source(line)

    def commit(self, job: JsonObject | None = None) -> None:
        """Make everything that was added visible and durable, atomically.

        Args:
            job: the state of a build, from which it can be resumed.

        Raises:
            InputError: when a document is open.
            CorpusError: when it cannot be written; the last commit stays valid.
        """
        with self._usable():
            if self._open:
                raise InputError("a document is open; expected end_document() before a commit.")
            self._write()
            with self._io():
                manifest = replace(
                    self._files.sync(),
                    tokens=self.tokens,
                    documents=self.documents,
                    commit=self._committed.commit + 1,
                    job=job,
                )
                sync_folder(self.folder)
                self._newest = manifest  # From here on, it may be on disk even after an error.
                write_manifest(self.folder, manifest)
                self._committed = manifest

    def adopt(self, shards: Iterable[Path], manifest: Manifest, edges: NDArray[np.int64]) -> None:
        """Add the shards of another corpus without reading them; does not commit.

        Args:
            shards: files that hold exactly what `manifest` says. They stay where they are; this
                corpus gets hard links to them, or copies where there are no hard links.
            manifest: manifest of the other corpus.
            edges: its document edges, `(documents + 1,)`.
        """
        with self._usable():
            if self._open:
                raise InputError("a document is open; expected end_document() before other shards.")
            self._write()
            with self._io():
                for path, stored in zip(shards, manifest.shards, strict=True):
                    self._files.adopt(path, stored)
                self._files.write_edges(edges[1:] + self.tokens)
                self.tokens += manifest.tokens
                self.documents += manifest.documents

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed = True
        try:
            if error is None and self._files.is_open:  # False after `abandon`
                if self._open:
                    self.end_document()
                if self._changed:
                    self.commit(self._committed.job)
            failed = error is not None
        finally:
            self._close(failed)

    def abandon(self) -> None:
        """Give up what was added since the last commit, and release the lock."""
        self._close()

    @property
    def _changed(self) -> bool:
        committed = self._committed
        return (self.tokens, self.documents) != (committed.tokens, committed.documents) or (
            self._files.source_bytes != committed.sources.bytes
        )

    def _write(self) -> None:
        """Write to the files what is waiting in memory."""
        with self._io():
            for ids in self._pending:
                self._files.write_ids(ids)
            for edges in self._edges:
                self._files.write_edges(edges)
            self._pending.clear()
            self._edges.clear()
            self._waiting = 0

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Lock out other threads; refuse when nothing can be written any more."""
        self._owner.check()  # before waiting: in a fork, no thread may be left to release the lock
        with self._one_thread:
            if self._broken is not None:
                raise CorpusError(f"nothing more can be written to {self.folder}: {self._broken}.")
            yield

    @contextmanager
    def _io(self) -> Iterator[None]:
        """Guard a change: an interruption, such as Ctrl-C, leaves the writer unusable."""
        try:
            yield
        except OSError as error:
            self._broken = f"{error.strerror or error}"
            raise CorpusError(
                f"cannot write to {self.folder}: {self._broken}. It is as it was last committed, "
                f"with {self._committed.tokens:,} tokens in {self._committed.documents:,} "
                "documents."
            ) from error
        except BaseException:
            self._broken = self._broken or "adding to it was interrupted"
            raise

    def _close(self, failed: bool = False) -> None:
        """Close all files, each cut to its committed bytes, and release the lock."""
        if not self._owner.is_here:
            return
        with self._one_thread:
            if self._broken is None:
                self._broken = "it is closed"
            self._files.abandon(self._newest)
            self._release(failed)

    def _release(self, failed: bool) -> None:
        """Release the lock; first remove a new corpus whose writer failed."""
        unmake, self._unmake = self._unmake, None
        if failed and unmake is not None and not self._newest.commit:
            unmake()
        self._lock.release()
