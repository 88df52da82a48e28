"""A build on Ray: its workers make parts, and this process joins them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tokenizers import Tokenizer

from transom.corpus.corpus import TokenCorpus
from transom.corpus.parts import PART_BYTES, PARTS, CorpusPart, join, make_part, plan
from transom.corpus.reading import Done, ReadTask
from transom.errors import CorpusError, InputError, MissingExtraError, TransomError
from transom.tokens.backends.reference import rust_tokenizer
from transom.tokens.json_line import JsonObject
from transom.tokens.protocols import TokenizerLike

__all__ = ["RayEngine"]

PARTS_EACH = 4  # several per worker, so that none waits for long at the end


class RayEngine:
    """Reads files with Ray Data, one part per task, and joins the parts in order.

    The corpus equals that of a build without Ray, except for where its shards end. A task whose
    worker dies is run again. Complete parts stay, so that an interrupted build can be resumed. All
    workers must see the folder of the corpus. Ray is started here unless it is running, or
    `RAY_ADDRESS` says where it is.

    Args:
        part_bytes: the least bytes of files on disk that a task reads; by default at most 256 MiB,
            and few enough for several tasks per worker.
        workers: how many tasks run at a time; by default as many as Ray has room for.

    Raises:
        MissingExtraError: when ray is not installed.
    """

    def __init__(self, part_bytes: int | None = None, workers: int | None = None) -> None:
        try:
            import ray.data
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"this engine needs {error.name}, which is not installed: "
                "pip install 'transom[ray]'."
            ) from error
        self._ray: ModuleType = ray
        self._part_bytes = part_bytes
        self._workers = workers

    def __call__(self, task: ReadTask) -> Done:
        """Read all files; the last commit ends the job."""
        if task.job.done or task.job.documents:
            raise CorpusError(
                f"the {task.job.name} was begun without Ray, and {task.writer.documents:,} "
                "documents are committed; run the same command without Ray to complete it."
            )
        tokenizer = _written(task.tokenizer)
        folder = (task.writer.folder / PARTS).resolve()
        size = sum(file.bytes for file in task.inputs)
        share = size // (PARTS_EACH * (self._workers or os.cpu_count() or 1))
        parts = plan(task.inputs, task.job.inputs, self._part_bytes or min(share, PART_BYTES))
        began = task.writer.documents, task.writer.tokens
        done = Done(0, 0, 0, 0, len(task.inputs), size)
        for part in self._made(folder, parts, tokenizer, task.field):
            done = done._replace(
                files=done.files + part["files"],
                documents=done.documents + part["documents"],
                tokens=done.tokens + part["tokens"],
                read=done.read + part["bytes"],
            )
            task.watch.moved(done)
            if task.watch.stopping():
                return done._replace(documents=0, tokens=0)  # Parts stay; none is joined.
        join(task.writer, [folder / part.name for part in parts])
        return done._replace(
            documents=task.writer.documents - began[0],
            tokens=task.writer.tokens - began[1],
            complete=True,
        )

    def _made(
        self, folder: Path, parts: list[CorpusPart], tokenizer: str, field: str
    ) -> Iterator[JsonObject]:
        """Make all parts; yields the counts of each part as it is done."""
        ray = self._ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="error")
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        shared = ray.put(tokenizer)

        def made(row: JsonObject) -> JsonObject:
            part = parts[row["item"]]
            said = {"files": len(part.inputs), "bytes": sum(file.bytes for file in part.inputs)}
            try:
                corpus = TokenCorpus.open(make_part(folder, part, ray.get(shared), field))
            except TransomError as error:  # Otherwise Ray would run it again, with the same result.
                return {**said, "documents": 0, "tokens": 0, "failed": str(error)}
            return {**said, "documents": corpus.documents, "tokens": corpus.tokens, "failed": ""}

        rows = ray.data.from_items(list(range(len(parts))), override_num_blocks=len(parts))
        pool = ray.data.TaskPoolStrategy(size=self._workers and min(self._workers, len(parts)))
        for row in rows.map(made, compute=pool).iter_rows():
            if row["failed"]:
                raise CorpusError(
                    f"a task of Ray failed: {row['failed']} Complete parts stay; run it "
                    "again to resume."
                )
            yield row


def _written(tokenizer: TokenizerLike) -> str:
    """A tokenizer as text, to send to the workers.

    Raises:
        InputError: when reading it back gives another tokenizer: some scores are not exact.
    """
    text = rust_tokenizer(tokenizer).to_str()
    if Tokenizer.from_str(text).to_str() != text:
        raise InputError(
            "this tokenizer is not the same after being written and read, so that Ray's workers "
            "might give other ids; build without Ray, or use another tokenizer."
        )
    return text
