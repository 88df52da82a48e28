"""Appending to a corpus: much or little at a time, all of it at once visible, or none."""

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
    """The one writer of a corpus, as a context manager.

    What is added is seen by no reader, and not kept if the process dies, before `commit`. Leaving
    the context commits; leaving it by an exception gives up what was added since the last commit,
    and where that is all there ever was, the corpus that was made for it.
    Readers go on reading what they opened, in either case. A fork of the process can write
    nothing: adding and committing raise `CorpusError` there, and giving up changes nothing.
    Several threads may add, each call being a whole; documents that are added in pieces need one.

    Attributes:
        tokens, documents: how many there are, those not yet committed included.
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
            self._committed = committed = read()  # only now: no other writer can commit any more
            self._newest = committed  # that may be on disk
            self.tokens, self.documents = committed.tokens, committed.documents
            self._vocab_size = committed.vocab_size
            self._dtype = np.dtype(committed.dtype)
            self._pending: list[TokenIds] = []  # ids that are not in the files yet
            self._waiting = 0  # how many these are
            self._edges: list[NDArray[np.int64]] = []
            self._open = False  # whether the last document goes on
            with self._io():
                self._files = GrowingFiles(folder, committed)
            if not committed.ends.bytes:
                self._edges.append(np.zeros(1, dtype=np.int64))
        except BaseException:
            self._release(failed=True)
            raise

    @property
    def committed(self) -> Manifest:
        """What readers see."""
        return self._committed

    def add_tokens(self, ids: IdsLike, *, documents: Iterable[int] | None = None) -> None:
        """Take the next ids; they go on the document that is open, or open one.

        Args:
            ids: a list, a range, an iterator, or a 1-D array or tensor of whole numbers.
            documents: where among these ids documents end, ascending; each end makes a document,
                also one without tokens. What follows the last one is open and goes on with the
                next call. See also `end_document`.

        Raises:
            InputError: when these cannot be used; nothing is changed.
            CorpusError: when they cannot be written, as on a full disk; the writer is of no more
                use, and the corpus is as it was last committed.
        """
        with self._usable():
            checked = check_ids(ids, self._vocab_size)
            ends = checked_ends(documents, len(checked), repeated=True)
            with self._io():
                if len(checked):
                    # A copy: the caller's may change.
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
        """What came since the last end is a document; one without tokens, when nothing did."""
        self.add_tokens((), documents=(0,))

    def add_document(self, ids: IdsLike) -> None:
        """Add a whole document; see `add_tokens`."""
        with self._usable():
            if self._open:
                raise InputError("a document is open; expected end_document() before another one.")
            checked = check_ids(ids, self._vocab_size)
            self.add_tokens(checked, documents=(len(checked),))

    def add_source(self, source: JsonObject) -> None:
        """Note, as a line of JSON, where documents came from.

        Raises:
            InputError: when JSON has no room for it; nothing is changed.
        """
        with self._usable():
            try:
                line = json.dumps(source).encode() + b"\n"  # Names may be no UTF-8.
            except (TypeError, ValueError, RecursionError) as error:
                raise InputError(
                    f"cannot note the source {source!r:.80} as JSON ({error}); expected text, "
                    "numbers, lists and dictionaries of these."
                ) from error
            with self._io():
                self._files.write_source(line)

    def commit(self, job: JsonObject | None = None) -> None:
        """Make all that was added visible and lasting, all at once.

        Args:
            job: what a builder needs to go on from here after an interruption.

        Raises:
            InputError: when a document is open.
            CorpusError: when it cannot be written; the last commit stands.
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
                self._newest = manifest  # An error may come when it is there already.
                write_manifest(self.folder, manifest)
                self._committed = manifest

    def adopt(self, shards: Iterable[Path], manifest: Manifest, edges: NDArray[np.int64]) -> None:
        """Take over another corpus' shards, whole, without reading them; not yet committed.

        Args:
            shards: files that hold exactly what `manifest` says. They stay where they are, and
                are the same files under a second name where the system allows that.
            manifest: of the other corpus.
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
            if error is None and self._files.is_open:  # until it is given up
                if self._open:
                    self.end_document()
                if self._changed:
                    self.commit(self._committed.job)
            failed = error is not None
        finally:
            self._close(failed)

    def abandon(self) -> None:
        """Give up what was added since the last commit, and let others write."""
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
        """For one thread at a time, while anything can be written."""
        self._owner.check()  # before waiting: in a fork, nobody may be there to let go of it
        with self._one_thread:
            if self._broken is not None:
                raise CorpusError(f"nothing more can be written to {self.folder}: {self._broken}.")
            yield

    @contextmanager
    def _io(self) -> Iterator[None]:
        """For what is changed as a whole; cut short by anything, Ctrl-C included, it is broken."""
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
        """Close all files, each as it was last committed, and let others write."""
        if not self._owner.is_here:
            return
        with self._one_thread:
            if self._broken is None:
                self._broken = "it is closed"
            self._files.abandon(self._newest)
            self._release(failed)

    def _release(self, failed: bool) -> None:
        """Let others write; a corpus that was made for a writer that failed is removed."""
        unmake, self._unmake = self._unmake, None
        if failed and unmake is not None and not self._newest.commit:
            unmake()
        self._lock.release()
