"""Builds a corpus from files of text; a build can be stopped anywhere and resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace

from transom.corpus.corpus import TokenCorpus
from transom.corpus.create import begun
from transom.corpus.job import Input, Job, digest_of, inputs_of
from transom.corpus.parts import PARTS
from transom.corpus.reading import Done, ReadTask, Watch, read_inputs
from transom.corpus.writer import CorpusWriter
from transom.errors import CorpusError, InputError
from transom.tokens.backends import Backend
from transom.tokens.protocols import TokenizerLike
from transom.validation import known_keywords, named_path

__all__ = ["Engine", "append_files", "build", "forget_job"]

# Adds the documents of files, from where the job stopped; its last commit ends the job.
Engine = Callable[[ReadTask], Done]

SILENT = Watch()


@known_keywords
def build(
    path: str | os.PathLike[str],
    files: Iterable[str | os.PathLike[str]],
    tokenizer: TokenizerLike,
    *,
    name: str = "",
    workers: int = 1,
    field: str = "text",
    backend: Backend | None = None,
    engine: Engine | None = None,
    watch: Watch = SILENT,
) -> Done:
    """Build a corpus from files of text, or resume a build.

    Args:
        path: folder of the corpus: new, empty, or of an interrupted build of the same files. A
            complete corpus of these files is not changed.
        files: files of text, see `transom.tokens.files.documents`.
        tokenizer: a `tokenizers.Tokenizer`, or a fast tokenizer of transformers.
        name: name of the tokenizer, for people.
        workers: how many threads tokenize.
        field: the JSON key, or column, that holds the text.
        backend: the library that tokenizes, see `choose_backend`; by default tokenizers.
        engine: what does the work; by default this process, with `workers` and `backend`.
        watch: is told the progress, and says when to stop.

    Raises:
        InputError: when a file cannot be read, or the folder holds something else.
        CorpusError: when the corpus cannot be written, or is another one.
    """
    inputs = inputs_of(files)
    if begun(named_path("build: path", path, "a folder")):
        writer = TokenCorpus.append(path, tokenizer=tokenizer)
    else:
        writer = TokenCorpus.create(path, tokenizer=tokenizer, name=name)
    with writer:
        if writer.committed.job is None and writer.committed.commit:
            return _complete(writer, inputs)
        job = _job("build", inputs, field, writer)
        return _run(
            ReadTask(writer, job, inputs, tokenizer, field, watch), engine, workers, backend
        )


@known_keywords
def append_files(
    path: str | os.PathLike[str],
    files: Iterable[str | os.PathLike[str]],
    tokenizer: TokenizerLike,
    *,
    workers: int = 1,
    field: str = "text",
    again: bool = False,
    forget: bool = False,
    backend: Backend | None = None,
    engine: Engine | None = None,
    watch: Watch = SILENT,
) -> Done:
    """Add files of text to a corpus, or resume adding them.

    Args:
        again: also add files that are in the corpus already.
        forget: give up an interrupted build or append; the documents it has committed stay.
        path, files, tokenizer, workers, field, backend, engine, watch: see `build`.

    Raises:
        InputError: when a file cannot be read, or is in the corpus already.
        CorpusError: when there is no such corpus, it was made with another tokenizer, another job
            is unfinished, or it cannot be written.
    """
    inputs = inputs_of(files)
    with TokenCorpus.append(path, tokenizer=tokenizer) as writer:
        if forget:
            _forget(writer)
        if writer.committed.job is None and not again:
            _refuse_known(writer, inputs)
        job = _job("append", inputs, field, writer)
        return _run(
            ReadTask(writer, job, inputs, tokenizer, field, watch), engine, workers, backend
        )


def forget_job(path: str | os.PathLike[str]) -> str | None:
    """Give up an interrupted build or append; the documents it has committed stay.

    Returns:
        The name of the job; None when nothing was unfinished.

    Raises:
        CorpusError: when there is no such corpus, or it cannot be written.
    """
    with TokenCorpus.append(path) as writer:
        return _forget(writer)


def _forget(writer: CorpusWriter) -> str | None:
    job = Job.of(writer.committed.job)
    if job is not None:
        writer.commit()
    return None if job is None else job.name


def _run(task: ReadTask, engine: Engine | None, workers: int, backend: Backend | None) -> Done:
    done = engine(task) if engine is not None else read_inputs(task, workers, backend)
    if done.complete:  # A Ray engine may have begun it.
        shutil.rmtree(task.writer.folder / PARTS, ignore_errors=True)
    return done


def _job(command: str, inputs: list[Input], field: str, writer: CorpusWriter) -> Job:
    """The job to do; after an interrupted run of the same job, from where that stopped.

    Files that the earlier run did not reach may have been changed, added or left out since.
    """
    what = digest_of(inputs, field)
    job = Job(command, what, len(inputs), inputs[0].path, began=writer.documents)
    known = Job.of(writer.committed.job)
    if known is None:
        return job
    job = replace(job, done=known.done, documents=known.documents, began=known.began)
    read = _sources(writer)[-known.done :] if known.done else []
    if (known.command, known.next) != (command, job.of_next(inputs, field)) or (
        read != inputs[: known.done]
    ):
        raise CorpusError(
            f"{writer.folder} has an unfinished {known.name}, and what was asked for is the "
            f"{job.name}; run the same command with the files that were read, unchanged, to "
            "complete it, or use `append --forget` to give it up."
        )
    return job


def _complete(writer: CorpusWriter, inputs: list[Input]) -> Done:
    """The result for a complete corpus of these files; one of other files is refused."""
    if _sources(writer) != inputs:
        raise InputError(
            f"{writer.folder} is already a corpus of other files, or of an older state of these; "
            "choose another name, or use `append` to add to it."
        )
    size = sum(file.bytes for file in inputs)
    count = len(inputs)
    return Done(count, 0, 0, size, count, size, resumed=writer.documents, complete=True)


def _refuse_known(writer: CorpusWriter, inputs: list[Input]) -> None:
    known = set(_sources(writer))
    for file in inputs:
        if file in known:
            raise InputError(
                f"{file.path} is in {writer.folder} already, and has not changed since; "
                "give other files, or use `--again` to add it once more."
            )


def _sources(writer: CorpusWriter) -> list[Input]:
    """The files from which the corpus was made."""
    return [
        Input(*(source[name] for name in Input._fields))
        for source in TokenCorpus(writer.folder, writer.committed).sources()
        if all(name in source for name in Input._fields)
    ]
