"""Makes the first commit of a corpus, which is empty."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from transom.corpus.lock import LOCK, WriterLock
from transom.corpus.manifest import COPY, MANIFEST, Manifest, Stored, read_manifest, write_manifest
from transom.corpus.tokenizer import fingerprint_of
from transom.errors import CorpusError, InputError
from transom.tokens import ANY_VOCABULARY, id_dtype
from transom.tokens.protocols import TokenizerLike
from transom.tokens.tokenizer import vocabulary_of
from transom.validation import whole_number

__all__ = ["begun", "first_manifest", "make_folder"]

OWNER = "TokenCorpus"
OURS = {
    LOCK,
    MANIFEST,
    COPY,
    f"{MANIFEST}.new",
    f"{COPY}.new",
}  # left by an interrupted creation


def first_manifest(
    vocab_size: int | None,
    tokenizer: TokenizerLike | str | None,
    name: str,
    block_bytes: int,
    shard_bytes: int,
) -> Manifest:
    """The manifest of an empty corpus; see `TokenCorpus.create`.

    Raises:
        InputError: when settings make no sense.
    """
    given = fingerprint_of(tokenizer)
    if vocab_size is None:
        if tokenizer is None or isinstance(tokenizer, str):
            raise InputError(
                f"{OWNER}: expected vocab_size or a tokenizer, which say how many ids there are."
            )
        vocab_size = vocabulary_of(tokenizer)
    vocab_size = whole_number(OWNER, "vocab_size", vocab_size, 1, unit="ids")
    if vocab_size > ANY_VOCABULARY:
        raise InputError(f"{OWNER}: vocab_size is {vocab_size}; expected at most {ANY_VOCABULARY}.")
    dtype = id_dtype(vocab_size).newbyteorder("<")
    block_bytes = whole_number(OWNER, "block_bytes", block_bytes, 8, unit="bytes")
    shard_bytes = whole_number(OWNER, "shard_bytes", shard_bytes, 8, unit="bytes")
    for what, size in (("block_bytes", block_bytes), ("shard_bytes", shard_bytes)):
        if size % 8:
            raise InputError(f"{OWNER}: {what} is {size}; expected a multiple of 8.")
    return Manifest(
        dtype=dtype.str,
        vocab_size=vocab_size,
        tokenizer=name,
        fingerprint=given,
        shards=(),
        ends=Stored("documents.ends"),
        sources=Stored("sources.jsonl"),
        block_bytes=block_bytes,
        shard_bytes=shard_bytes,
    )


def begun(folder: Path) -> bool:
    """Whether there is a corpus in `folder` to which something was committed.

    A process that is killed before its first commit leaves a corpus without any.

    Raises:
        CorpusError: when the folder or the manifest cannot be read.
    """
    try:
        return (folder / MANIFEST).exists() and read_manifest(folder).commit > 0
    except OSError as error:
        raise CorpusError(f"cannot use {folder}: {error.strerror}.") from error


def make_folder(folder: Path, manifest: Manifest) -> tuple[WriterLock, Callable[[], None]]:
    """Make the folder and the empty first commit, also over that of a killed process.

    Returns:
        The lock, which is held, and a function that removes the corpus again; call it before the
        lock is released.

    Raises:
        InputError: when there is something else in the folder.
        CorpusBusyError: when another process is making a corpus there.
        CorpusError: when it cannot be made.
    """
    try:
        there = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        others = set() if (folder / MANIFEST).exists() else _others(folder)
    except OSError as error:
        what = "it is a file" if os.path.isfile(folder) else error.strerror
        raise CorpusError(
            f"cannot make {folder}: {what}; expected the name of a folder, new or empty."
        ) from error
    if others:
        raise InputError(
            f"{folder} is not empty (there is {min(others)!r}); expected a folder of its own for a "
            "new corpus, or `append` for an existing one."
        )
    lock = WriterLock(folder)
    try:
        if begun(folder):
            raise InputError(f"{folder} is a corpus already; choose another name, or use `append`.")
        write_manifest(folder, manifest)
    except OSError as error:
        lock.release()
        raise CorpusError(f"cannot write to {folder}: {error.strerror}.") from error
    except BaseException:
        lock.release()
        raise
    return lock, lambda: _unmake(folder, there)


def _unmake(folder: Path, keep: bool) -> None:
    """Remove a corpus to which nothing was committed, and its folder unless `keep`."""
    with suppress(OSError):  # A folder with other files stays, such as parts of a build on Ray.
        if not _others(folder):
            for name in OURS:
                (folder / name).unlink(missing_ok=True)
            if not keep:
                folder.rmdir()


def _others(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - OURS
