"""What a build or an append is made of, so that one that was cut short can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from errno import EACCES
from pathlib import Path
from typing import Any, NamedTuple, Self

from transom.corpus.sums import digest
from transom.errors import InputError
from transom.tokens.documents import kind_of, unknown_kind
from transom.validation import named_path

__all__ = ["Input", "Job", "digest_of", "inputs_of"]


class Input(NamedTuple):
    """A file of text, and what tells whether it is still the same.

    Attributes:
        path: as it was given.
        bytes: its size.
        changed: when it was last written to, in nanoseconds.
    """

    path: str
    bytes: int
    changed: int


def inputs_of(paths: Iterable[str | os.PathLike[str]]) -> list[Input]:
    """The files to read.

    Raises:
        InputError: when there are none, one is given twice, or one cannot be read: all that can
            be known before files are read, so that the last one does not fail after hours.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise InputError(f"files are {os.fspath(paths)!r:.80}; expected a list, if only of that.")
    inputs: dict[str, Input] = {}
    for path in paths:
        name = str(named_path("a file's name", path))  # as documents are called by it
        if name == "-":
            raise InputError(
                "- stands for standard input, which cannot be read again when a run goes on after "
                "an interruption; expected files: save it as one first."
            )
        known = _readable(Path(name))
        if name in inputs:
            raise InputError(f"{name} is given twice; expected each file once.")
        inputs[name] = Input(name, known.st_size, known.st_mtime_ns)
    if not inputs:
        raise InputError("no files were given; expected at least one.")
    return list(inputs.values())


def _readable(path: Path) -> os.stat_result:
    try:
        known = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the files in it, such as {path / '*'}.")
    if not path.is_file():
        raise InputError(f"cannot read {path}: it is no file; expected files of text.")
    if kind_of(path) is None:
        raise unknown_kind(path)
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: {os.strerror(EACCES)}.")
    return known


def digest_of(inputs: Iterable[Input], *others: str) -> str:
    """A name for some files as they are, and for what else decides the documents in them."""
    return digest(json.dumps([[*inputs], *others]).encode())


@dataclass(frozen=True)
class Job:
    """A build or an append, as it is kept beside every commit until it is complete.

    Attributes:
        command: `build` or `append`.
        inputs: what `digest_of` says of its files.
        files: how many they are.
        first: the first of them, for people.
        done: how many files are in the corpus as a whole.
        documents: how many of the next file's documents are.
        began: how many documents there were before it.
        next: see `of_next`.
    """

    command: str
    inputs: str
    files: int
    first: str
    done: int = 0
    documents: int = 0
    began: int = 0
    next: str = ""

    @classmethod
    def of(cls, manifest_job: dict[str, Any] | None) -> Self | None:
        """The one in a manifest; None when none is under way."""
        return None if manifest_job is None else cls(**manifest_job)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        others = f" and {self.files - 1:,} more" if self.files > 1 else ""
        return f"{self.command} of {self.first}{others}"

    def at(self, done: int, documents: int, inputs: list[Input], field: str) -> Self:
        """The same job, further on."""
        further = replace(self, done=done, documents=documents)
        return replace(further, next=further.of_next(inputs, field))

    def of_next(self, inputs: list[Input], field: str) -> str:
        """What must be the same to go on: the file that some documents were read of already."""
        return digest_of(inputs[self.done : self.done + 1] if self.documents else (), field)

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)
