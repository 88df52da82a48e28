"""Documents of files into a corpus, in order, committed every now and then."""

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

COMMIT_SECONDS = 10.0  # of work that a kill may cost, and that is then done again


class Done(NamedTuple):
    """How far a build or an append is.

    Attributes:
        files: read as a whole, of `inputs`.
        documents, tokens: added by this run.
        read: bytes of all files, as they are on the disk.
        inputs: how many files there are.
        size: bytes of all of them.
        resumed: documents that runs before this one added.
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
    """How a run tells how far it is, and is told to stop.

    Attributes:
        moved: called with how far it is, often.
        stopping: asked at the end of each document; what is there then is committed.
    """

    moved: Callable[[Done], None] = lambda done: None
    stopping: Callable[[], bool] = lambda: False


class ReadTask(NamedTuple):
    """What is to be read into what.

    Attributes:
        writer: of the corpus, in which nothing is uncommitted.
        job: how far runs before this one came.
        inputs: all files of the job.
        tokenizer: see `build`.
        field: the key, or column, that holds the text.
        watch: see there.
    """

    writer: CorpusWriter
    job: Job
    inputs: list[Input]
    tokenizer: TokenizerLike
    field: str
    watch: Watch


def read_inputs(task: ReadTask, workers: int = 1, backend: Backend | None = None) -> Done:
    """Add the documents of all files from where the job is; the last commit ends the job."""
    return _Reading(task).run(Encoder(task.tokenizer, backend), workers)


class _Reading:
    """The state of one run: which file is being read, and how many documents it had so far."""

    def __init__(self, task: ReadTask) -> None:
        self.task = task
        self.writer, self.job = task.writer, task.job
        self.left = task.inputs[task.job.done :]  # each as it was when it was read
        self.size = sum(file.bytes for file in task.inputs)
        self.to_read = sum(file.bytes for file in self.left)
        self.number, self.documents = 0, task.job.documents
        self.began = self.writer.documents, self.writer.tokens
        at = self.writer.documents - self.documents
        corpus = TokenCorpus(self.writer.folder, self.writer.committed)
        self.first = at, int(corpus.edges[at])  # where the file's documents start
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
        """Add what there is of a document."""
        self.writer.add_tokens(piece.ids, documents=(len(piece.ids),) if piece.last else None)
        self.documents += piece.last
        if piece.last and time.monotonic() - self.committed > COMMIT_SECONDS:
            self.commit()

    def note(self, number: int, known: Known) -> None:
        """Know a file as it is now: it may have been changed since the run began, or grow."""
        self.left[number] = self.left[number]._replace(**known._asdict())

    def end_file(self) -> None:
        """Note where the documents of the file are."""
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
        """How far it is, having read so many bytes of the files that were left."""
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
    """Whether a document of that name is of that file."""
    name, _, row = document.rpartition(":")
    return document == file.path or (name == file.path and row.isdecimal())
