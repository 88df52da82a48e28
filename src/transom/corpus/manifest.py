"""The manifest: one small file that says what is committed, replaced atomically."""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from transom.atomic_files import sync_folder
from transom.corpus.sums import DIGITS, digest
from transom.errors import CorpusDamageError, CorpusError
from transom.tokens.json_line import JsonObject
from transom.validation import known_keywords

__all__ = ["COPY", "MANIFEST", "Manifest", "Stored", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
COPY = "manifest.copy.json"  # used when the other one is damaged
FORMAT = 1

logger = logging.getLogger("transom")


@dataclass(frozen=True)
class Stored:
    """The committed part of a file that only grows.

    Attributes:
        name: name of the file, in the folder of the corpus.
        bytes: how many bytes are committed; bytes after these are ignored.
        sums: xxh3 of each block, 16 hexadecimal digits each; the last block may be shorter.
    """

    name: str
    bytes: int = 0
    sums: str = ""

    def sum_of(self, block: int) -> str:
        """The checksum of a block."""
        return self.sums[block * DIGITS : (block + 1) * DIGITS]


@known_keywords
@dataclass(frozen=True)
class Manifest:
    """The state of a corpus at one commit.

    Attributes:
        dtype: dtype of the ids, as numpy spells it, little-endian.
        vocab_size: ids are below it.
        tokenizer: name of the tokenizer; empty for none.
        fingerprint: see `transom.tokens.fingerprint`; empty for none.
        shards: files of ids; positions count over all of them.
        ends: the file of document edges, int64: 0, then where each document stops.
        sources: the file of notes on where documents came from, a line of JSON per source.
        tokens, documents: how many there are.
        block_bytes: bytes that each checksum covers.
        shard_bytes: the size at which a shard is full.
        commit: the number of commits.
        job: the state of an unfinished build or append; None when there is none.
    """

    dtype: str
    vocab_size: int
    tokenizer: str
    fingerprint: str
    shards: tuple[Stored, ...]
    ends: Stored
    sources: Stored
    tokens: int = 0
    documents: int = 0
    block_bytes: int = 1 << 20
    shard_bytes: int = 1 << 30
    commit: int = 0
    job: JsonObject | None = None

    @property
    def files(self) -> tuple[Stored, ...]:
        """All files with committed bytes."""
        return (*self.shards, self.ends, self.sources)

    def to_bytes(self) -> bytes:
        """The content of a JSON file with a checksum of itself."""
        return _sealed({"transom_corpus": FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Manifest:
        """Read the content of such a file, called `name` in messages.

        Raises:
            CorpusDamageError: when any byte differs from what was written.
            CorpusError: when a later version of transom wrote it.
        """
        try:
            body = dict(json.loads(data)["manifest"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CorpusDamageError(
                f"{name} is damaged: it is not JSON with a checksum ({error})."
            ) from error
        if _sealed(body) != data:
            raise CorpusDamageError(f"{name} is damaged: its xxh3 is not the one it states.")
        if (version := body.pop("transom_corpus")) != FORMAT:
            raise CorpusError(
                f"{name} is of format {version!r}, and this version of transom reads {FORMAT}; "
                "expected a corpus that it wrote, or a newer transom."
            )
        for key in ("ends", "sources"):
            body[key] = Stored(**body[key])
        body["shards"] = tuple(Stored(**shard) for shard in body["shards"])
        return cls(**body)


def read_manifest(folder: Path) -> Manifest:
    """The last commit.

    When the manifest is damaged, its copy is used, with a warning. The copy is of the same commit,
    or of the one before when the writer was killed between writing the two.

    Raises:
        CorpusError: when there is no corpus in `folder`.
        CorpusDamageError: when both are damaged.
    """
    path = folder / MANIFEST
    try:
        return Manifest.from_bytes(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise CorpusError(
            f"{folder} is no corpus: there is no {MANIFEST} in it; expected a folder made by "
            "`transom corpus build` or TokenCorpus.create."
        ) from None
    except NotADirectoryError:
        raise CorpusError(
            f"{folder} is no corpus: it is a file; expected a folder made by "
            "`transom corpus build` or TokenCorpus.create."
        ) from None
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}.") from error
    except CorpusDamageError as damage:
        try:
            manifest = Manifest.from_bytes((folder / COPY).read_bytes(), str(folder / COPY))
        except (OSError, CorpusError):
            raise damage from None
        warnings.warn(
            f"{damage} Its copy is used, of commit {manifest.commit:,} with {manifest.tokens:,} "
            f"tokens; run `transom corpus verify {folder}`.",
            stacklevel=3,
        )
        return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Commit: from now on, this is the state of the corpus, also after a crash.

    Raises:
        OSError: when it cannot be written; the last commit stays valid.
    """
    data = manifest.to_bytes()
    _replace(folder / MANIFEST, data, durable=True)
    try:
        _replace(folder / COPY, data, durable=False)
    except OSError as error:  # The commit is done, and an older copy is still valid.
        logger.warning("cannot write %s: %s", folder / COPY, error.strerror)


def _replace(path: Path, data: bytes, durable: bool) -> None:
    unfinished = path.with_name(f"{path.name}.new")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def _sealed(body: JsonObject) -> bytes:
    """The bytes of a manifest; there is only one way to write it, so any other byte is damage."""
    plain = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({"xxh3": digest(plain), "manifest": body}, indent=1).encode() + b"\n"
