"""Appending to a corpus: much or little at a time, all of it at once visible, or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from transom.atomic_files import sync_folder
from transom.corpus.growing import GrowingFile, second_name
from transom.corpus.lock import WriterLock
from transom.corpus.manifest import Manifest, Stored, write_manifest
from transom.errors import CorpusError, InputError
from transom.forks import Owner
from transom.tokens import check_ids
from transom.validation import known_keywords

__all__ = ["CorpusWriter", "shard_name"]

TOKENS_AT_ONCE = 1 << 17  # gathered in memory before they are written


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"{number:06d}.tokens"


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
        self._files: dict[str, GrowingFile] = {}
        self._broken: str | None = None
        self._owner = Owner(f"the writer of {folder}", CorpusError)
        self._one_thread = RLock()
        try:
            self._committed = read()  # only now: no other writer can commit any more
            self._newest = self._committed  # that may be on disk
            self._vocab_size = self._committed.vocab_size
            self._dtype = np.dtype(self._committed.dtype)
            self._shards = list(self._committed.shards)
            self._start()
        except BaseException:
            self._close(failed=True)
            raise

    def _start(self) -> None:
        committed = self._committed
        self.tokens, self.documents = committed.tokens, committed.documents
        self._pending: list[NDArray[Any]] = []
        self._waiting = 0  # tokens among these
        self._edges: list[NDArray[np.int64]] = []
        self._open = False  # whether the last document goes on
        with self._io():
            self._ends = self._growing(committed.ends)
            self._sources = self._growing(committed.sources)
            if not committed.ends.bytes:
                self._edges.append(np.zeros(1, dtype=np.int64))
            full = self._shards and self._shards[-1].bytes >= committed.shard_bytes
            if not self._shards or full:
                self._shards.append(Stored(shard_name(len(self._shards))))
            self._shard = self._growing(self._shards[-1])

    @property
    def committed(self) -> Manifest:
        """What readers see."""
        return self._committed

    def add_tokens(self, ids: Any, *, documents: Iterable[int] | None = None) -> None:
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
            ends = _checked_ends(documents, len(checked))
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

    def add_document(self, ids: Any) -> None:
        """Add a whole document; see `add_tokens`."""
        with self._usable():
            if self._open:
                raise InputError("a document is open; expected end_document() before another one.")
            checked = check_ids(ids, self._vocab_size)
            self.add_tokens(checked, documents=(len(checked),))

    def add_source(self, source: dict[str, Any]) -> None:
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
                self._sources.write(line)

    def commit(self, job: dict[str, Any] | None = None) -> None:
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
                self._shards[-1] = self._shard.sync()
                manifest = replace(
                    self._committed,
                    shards=tuple(shard for shard in self._shards if shard.bytes),
                    ends=self._ends.sync(),
                    sources=self._sources.sync(),
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
                    self._next_shard(adopted=stored, path=path)
                self._ends.write(np.asarray(edges[1:] + self.tokens, dtype="<i8").data)
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
            if error is None and self._files:  # which it has until it is given up
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
        return (self.tokens, self.documents) != (
            self._committed.tokens,
            self._committed.documents,
        ) or self._sources.bytes != self._committed.sources.bytes

    def _write(self) -> None:
        """Hand what is waiting to the files."""
        with self._io():
            room = self._committed.shard_bytes // self._dtype.itemsize
            for ids in self._pending:
                while len(ids):
                    held = self._shard.bytes // self._dtype.itemsize
                    if held >= room:
                        self._next_shard()
                        held = 0
                    self._shard.write(ids[: room - held].data)
                    ids = ids[room - held :]
            for edges in self._edges:
                self._ends.write(edges.astype("<i8").data)
            self._pending.clear()
            self._edges.clear()
            self._waiting = 0

    def _next_shard(self, adopted: Stored | None = None, path: Path | None = None) -> None:
        """Finish the shard that is being written; the next one is empty, or a file that is there.

        An empty one gives its name to the next.
        """
        self._shards[-1] = self._shard.sync()
        self._shard.close()
        if not self._shards[-1].bytes:
            self._shards.pop()
        name = shard_name(len(self._shards))
        stored = Stored(name)
        if adopted is not None and path is not None:
            stored = replace(adopted, name=name)
            second_name(path, self.folder / name)
        self._shards.append(stored)
        self._shard = self._growing(stored)

    def _growing(self, stored: Stored) -> GrowingFile:
        file = GrowingFile(self.folder, stored, self._committed.block_bytes)
        self._files[stored.name] = file
        return file

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
            unmake, self._unmake = self._unmake, None
            files = self._newest.files if self._files else ()
            committed = {stored.name: stored.bytes for stored in files}
            for name, file in self._files.items():
                with suppress(OSError):  # What is not committed counts for nothing, if it stays.
                    file.abandon(committed.get(name, 0))
            self._files.clear()
            if failed and unmake is not None and not self._newest.commit:
                unmake()
            self._lock.release()


def _checked_ends(documents: Iterable[int] | None, length: int) -> NDArray[np.int64]:
    if documents is None:
        return np.empty(0, dtype=np.int64)
    try:
        ends = check_ids(documents, length + 1).astype(np.int64)
    except InputError as error:
        raise InputError(
            f"documents must end at 0 to {length}, counted in these ids: {error}"
        ) from error
    if (np.diff(ends) < 0).any():
        raise InputError(f"documents end at {ends.tolist()!r:.80}; expected ascending numbers.")
    return ends
