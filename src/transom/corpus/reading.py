"""Reads the documents of files into a corpus, in order, with a commit every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from transom.corpus.corpus import TokenCorpus
from transom.corpus.job import Input, Job
from transom.corpus.writer import CorpusWriter
from transom.tokens import Encoder
from transom.tokens.backends import Backend
from transom.tokens.documents import Known
from transom.tokens.files import Tokenized, tokenize_files
from transom.tokens.protocols import TokenizerLike

__all__ = ["Done", "ReadTask", "Watch", "read_inputs"]

COMMIT_SECONDS = 10.0  # of work that is lost, and done again, when the process is killed


class Done(NamedTuple):
    """The progress of a build or an append.

    Attributes:
        files: how many of the `inputs` files were read completely.
        documents, tokens: how many this run added.
        read: bytes read of all files on disk.
        inputs: how many files there are.
        size: bytes of all of them.
        resumed: documents that earlier runs of the job added.
        complete: whether nothing is left to do.
    """

    files: int
    documents: int
    tokens: int
    read: int
    inputs: int
    size: int
    resumed: int = 0
    complete: bool = False


class Watch(NamedTuple):
    """Callbacks of a run: one gets its progress, one can stop it.

    Attributes:
        moved: called often with the progress.
        stopping: called at the end of each document; when it returns True, the run commits and
            stops.
    """

    moved: Callable[[Done], None] = lambda done: None
    stopping: Callable[[], bool] = lambda: False


class ReadTask(NamedTuple):
    """The files to read, and the corpus to read them into.

    Attributes:
        writer: writer of the corpus, with nothing uncommitted.
        job: the progress of earlier runs.
        inputs: all files of the job.
        tokenizer: see `build`.
        field: the JSON key, or column, that holds the text.
        watch: callbacks, see `Watch`.
    """

    writer: CorpusWriter
    job: Job
    inputs: list[Input]
    tokenizer: TokenizerLike
    field: str
    watch: Watch


def read_inputs(task: ReadTask, workers: int = 1, backend: Backend | None = None) -> Done:
    """Add the documents of all files, from where the job stopped; the last commit ends it."""
    return _Reading(task).run(Encoder(task.tokenizer, backend), workers)


class _Reading:
    """The state of a run: the file that is being read, and how many documents it had so far."""

    def __init__(self, task: ReadTask) -> None:
        self.task = task
        self.writer, self.job = task.writer, task.job
        self.left = task.inputs[task.job.done :]  # each with its size and time when it was read
        self.size = sum(file.bytes for file in task.inputs)
        self.to_read = sum(file.bytes for file in self.left)
        self.number, self.documents = 0, task.job.documents
        self.began = self.writer.documents, self.writer.tokens
        at = self.writer.documents - self.documents
        corpus = TokenCorpus(self.writer.folder, self.writer.committed)
        # The document and the position at which the current file starts.
        self.first = at, int(corpus.edges[at])
        self.committed = time.monotonic()

    def run(self, encoder: Encoder, workers: int) -> Done:
        task = self.task
        pieces = tokenize_files(
            [file.path for file in self.left],
            encoder,
            workers=workers,
            field=task.field,
            skip=self.documents,
            noted=self.note,
        )
        for piece in pieces:
            while not _is_of(piece.document, self.left[self.number]):
                self.end_file()
            self.take(piece)
            task.watch.moved(self.done(piece.read))
            if piece.last and task.watch.stopping():
                self.commit()
                return self.done(piece.read)
        while self.number < len(self.left):
            self.end_file()
        self.writer.commit()
        return self.done(self.to_read)._replace(complete=True)

    def take(self, piece: Tokenized) -> None:
        """Add the ids of a piece of a document."""
        self.writer.add_tokens(piece.ids, documents=(len(piece.ids),) if piece.last else None)
        self.documents += piece.last
        if piece.last and time.monotonic() - self.committed > COMMIT_SECONDS:
            self.commit()

    def note(self, number: int, known: Known) -> None:
        """Note size and time of a file now: it may have changed since the run began."""
        self.left[number] = self.left[number]._replace(**known._asdict())

    def end_file(self) -> None:
        """Note which documents of the corpus come from the file, and go to the next file."""
        start, tokens = self.first
        self.writer.add_source(
            {
                **self.left[self.number]._asdict(),
                "documents": [start, self.writer.documents],
                "tokens": self.writer.tokens - tokens,
            }
        )
        self.number += 1
        self.documents = 0
        self.first = self.writer.documents, self.writer.tokens

    def commit(self) -> None:
        done = self.job.done + self.number
        inputs = [*self.task.inputs[: self.job.done], *self.left]
        at = self.job.at(done, self.documents, inputs, self.task.field)
        self.writer.commit(at.to_dict())
        self.committed = time.monotonic()

    def done(self, read: int) -> Done:
        """The progress after reading `read` bytes of the files that were left."""
        return Done(
            files=self.job.done + self.number,
            documents=self.writer.documents - self.began[0],
            tokens=self.writer.tokens - self.began[1],
            read=self.size - self.to_read + read,
            inputs=len(self.task.inputs),
            size=self.size,
            resumed=self.began[0] - self.job.began,
        )


def _is_of(document: str, file: Input) -> bool:
    """Whether a document of that name comes from `file`."""
    name, _, row = document.rpartition(":")
    return document == file.path or (name == file.path and row.isdecimal())
