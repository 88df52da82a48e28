"""The state of a build or an append, from which it can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from errno import EACCES
from pathlib import Path
from typing import NamedTuple, Self

from transom.corpus.sums import digest
from transom.errors import InputError
from transom.tokens.documents import kind_of, unknown_kind
from transom.tokens.json_line import JsonObject
from transom.validation import named_path

__all__ = ["Input", "Job", "digest_of", "inputs_of"]


class Input(NamedTuple):
    """A file of text, with size and time to tell whether it has changed.

    Attributes:
        path: the path as it was given.
        bytes: its size.
        changed: when it was last written to, in nanoseconds.
    """

    path: str
    bytes: int
    changed: int


def inputs_of(paths: Iterable[str | os.PathLike[str]]) -> list[Input]:
    """The files to read, checked now so that the last one does not fail after hours.

    Raises:
        InputError: when there are none, one is given twice, or one cannot be read.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise InputError(f"files are {os.fspath(paths)!r:.80}; expected a list, if only of that.")
    inputs: dict[str, Input] = {}
    for path in paths:
        name = str(named_path("a file's name", path))  # documents are named after it
        if name == "-":
            raise InputError(
                "- stands for standard input, which cannot be read again after an interruption; "
                "save it as a file first."
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
        raise InputError(f"cannot read {path}: it is not a regular file; expected files of text.")
    if kind_of(path) is None:
        raise unknown_kind(path)
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: {os.strerror(EACCES)}.")
    return known


def digest_of(inputs: Iterable[Input], *others: str) -> str:
    """A digest of some files as they are, and of what else decides the documents in them."""
    return digest(json.dumps([[*inputs], *others]).encode())


@dataclass(frozen=True)
class Job:
    """A build or an append; it is kept in every manifest until it is complete.

    Attributes:
        command: `build` or `append`.
        inputs: the digest of its files.
        files: how many files it has.
        first: the first of them, for people.
        done: how many files are completely in the corpus.
        documents: how many documents of the next file are in the corpus.
        began: how many documents the corpus had before the job.
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
    def of(cls, manifest_job: JsonObject | None) -> Self | None:
        """The job in a manifest; None when there is none."""
        return None if manifest_job is None else cls(**manifest_job)

    @property
    def name(self) -> str:
        """The name of the job in messages."""
        others = f" and {self.files - 1:,} more" if self.files > 1 else ""
        return f"{self.command} of {self.first}{others}"

    def at(self, done: int, documents: int, inputs: list[Input], field: str) -> Self:
        """The same job with its progress."""
        further = replace(self, done=done, documents=documents)
        return replace(further, next=further.of_next(inputs, field))

    def of_next(self, inputs: list[Input], field: str) -> str:
        """A digest of the file that was read in part, which must not change before resuming."""
        return digest_of(inputs[self.done : self.done + 1] if self.documents else (), field)

    def to_dict(self) -> JsonObject:
        """As a dictionary for a manifest."""
        return asdict(self)
