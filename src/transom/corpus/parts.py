"""Parts of a build: made by any process, in any order, possibly twice, and then joined."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from tokenizers import Tokenizer

from transom.corpus.corpus import TokenCorpus
from transom.corpus.job import Input, Job, digest_of
from transom.corpus.manifest import MANIFEST
from transom.corpus.reading import ReadTask, Watch, read_inputs
from transom.corpus.writer import CorpusWriter
from transom.tokens.json_line import JsonObject

__all__ = ["PARTS", "CorpusPart", "join", "make_part", "plan"]

PARTS = "parts"  # the folder of parts within that of the corpus, during a build
PART_BYTES = 256 << 20  # bytes of files on disk


class CorpusPart(NamedTuple):
    """Files that are read into a corpus of their own.

    Attributes:
        name: name of the folder: a digest of the files and of what is done with them.
        inputs: the files, in order.
    """

    name: str
    inputs: tuple[Input, ...]


def plan(inputs: Iterable[Input], what: str, size: int = PART_BYTES) -> list[CorpusPart]:
    """Split files, in order, into parts of at least `size` bytes.

    >>> files = [Input("a", 5, 0), Input("b", 2, 0), Input("c", 9, 0)]
    >>> [[file.path for file in part.inputs] for part in plan(files, "", size=6)]
    [['a', 'b'], ['c']]
    """
    shares: list[list[Input]] = [[]]
    for file in inputs:
        if sum(known.bytes for known in shares[-1]) >= size:
            shares.append([])
        shares[-1].append(file)
    return [CorpusPart(digest_of(share, what), tuple(share)) for share in shares if share]


def make_part(folder: Path, part: CorpusPart, tokenizer: str, field: str) -> Path:
    """Read the files of a part, unless that was done before; returns the folder of its corpus.

    Several processes may make the same part at once: each works in a folder of its own, and the
    first one to finish is kept.

    Args:
        folder: the folder of all parts.
        part: the files to read.
        tokenizer: the tokenizer as `Tokenizer.to_str` writes it.
        field: the JSON key, or column, that holds the text.
    """
    made = folder / part.name
    if (made / MANIFEST).exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{part.name}.{uuid4().hex}"
    try:
        encoder = Tokenizer.from_str(tokenizer)
        with TokenCorpus.create(aside, tokenizer=encoder) as writer:
            inputs = list(part.inputs)
            job = Job("build", part.name, len(inputs), inputs[0].path)
            read_inputs(ReadTask(writer, job, inputs, encoder, field, Watch()))
        try:
            aside.rename(made)
        except OSError:
            if not (made / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return made


def join(writer: CorpusWriter, parts: Iterable[Path]) -> None:
    """Adopt the shards of parts in order, and commit, which ends the job."""
    for path in parts:
        part = TokenCorpus.open(path)
        before = writer.documents
        writer.adopt(
            [path / shard.name for shard in part.manifest.shards], part.manifest, part.edges
        )
        for source in part.sources():
            writer.add_source(_moved(source, before))
    writer.commit()


def _moved(source: JsonObject, by: int) -> JsonObject:
    return {**source, "documents": [number + by for number in source["documents"]]}
