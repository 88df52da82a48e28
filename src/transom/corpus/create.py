"""A corpus' first commit, which is empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transom.checks import whole_number
from transom.corpus.lock import LOCK, WriterLock
from transom.corpus.manifest import COPY, MANIFEST, Manifest, Stored, write_manifest
from transom.corpus.tokenizer import fingerprint_of
from transom.errors import CorpusError, InputError
from transom.tokens import ANY_VOCABULARY, id_dtype

__all__ = ["first_manifest", "make_folder"]

OWNER = "TokenCorpus"
OURS = {LOCK, MANIFEST, COPY, f"{MANIFEST}.new", f"{COPY}.new"}  # what a creation cut short leaves


def first_manifest(
    vocab_size: int | None, tokenizer: Any, name: str, block_bytes: int, shard_bytes: int
) -> Manifest:
    """The manifest of an empty corpus; see `TokenCorpus.create`.

    Raises:
        InputError: on settings that make no sense.
    """
    given = fingerprint_of(tokenizer)
    if vocab_size is None:
        if tokenizer is None or isinstance(tokenizer, str):
            raise InputError(
                f"{OWNER}: expected vocab_size or a tokenizer, which say how many ids there are."
            )
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        highest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
        vocab_size = int(highest) + 1  # numbers may be left out, so counting tokens would not do
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


def make_folder(folder: Path, manifest: Manifest) -> WriterLock:
    """Make the folder with its first commit; returns the lock, which is held.

    Raises:
        InputError: when there is something in it already.
        CorpusBusyError: when another process is making a corpus there.
        CorpusError: when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = {path.name for path in folder.iterdir()} - OURS
    except OSError as error:
        raise CorpusError(f"cannot make {folder}: {error.strerror}.") from error
    if others:
        raise InputError(
            f"{folder} is not empty (there is {min(others)!r}); expected a folder of its own for a "
            "new corpus, or `append` for one that is there."
        )
    lock = WriterLock(folder)
    try:
        if (folder / MANIFEST).exists():
            raise InputError(f"{folder} is a corpus already; expected another name, or `append`.")
        write_manifest(folder, manifest)
    except OSError as error:
        lock.release()
        raise CorpusError(f"cannot write to {folder}: {error.strerror}.") from error
    except BaseException:
        lock.release()
        raise
    return lock
