"""datatrove's `.ds`: ids, and the ends of documents in a file beside them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from transom.corpus.formats.base import Format, Moved, mapped
from transom.corpus.formats.megatron import AT_ONCE, in_order
from transom.corpus.reader import CorpusReader
from transom.corpus.writer import CorpusWriter
from transom.errors import InputError
from transom.outputs import output

__all__ = ["Datatrove"]

AT_MOST = 100  # characters in a line with a number


class Datatrove(Format):
    """A `.ds` file of 2- or 4-byte ids, its `.index` of ends, and `.metadata` for people.

    The metadata say how many bytes an id has; without metadata, ids have 2.
    """

    name: ClassVar[str] = "datatrove"
    summary: ClassVar[str] = "datatrove's .ds with .ds.index and .ds.metadata"

    def files(self, out: Path) -> list[Path]:
        tokens = out if out.suffix == ".ds" else out.with_name(out.name + ".ds")
        return [tokens, *(Path(f"{tokens}.{suffix}") for suffix in ("index", "metadata"))]

    def write(
        self, corpus: CorpusReader, out: Path, *, separator: int | None = None, moved: Moved
    ) -> None:
        dtype = np.dtype("<u2" if corpus.manifest.vocab_size <= 1 << 16 else "<u4")
        tokens, index, metadata = self.files(out)
        with output(metadata) as about, output(index) as ends, output(tokens) as file:
            name = " ".join(corpus.manifest.tokenizer.split()) or "Unknown Tokenizer"
            count = corpus.tokens
            about.write(
                f"{name}|{dtype.itemsize}\n{count}\n{_short(count)}".encode(
                    errors="surrogateescape"
                )
            )
            ends.write(corpus.edges[1:].astype("<u8").data)
            for first in (about, ends):
                first.flush()  # Find a full disk before the ids replace an older file.
            for ids in corpus.pieces(AT_ONCE):
                file.write(ids.astype(dtype).data)
                moved(len(ids))

    def read(
        self, source: Path, writer: CorpusWriter, *, separator: int | None = None, moved: Moved
    ) -> None:
        tokens, index, metadata = self.files(source)
        if (masks := Path(f"{tokens}.loss")).exists():
            raise InputError(
                f"{masks} says which tokens count for the loss, which a corpus does not keep; move "
                "it away to read the ids without it."
            )
        size, count = _told(metadata)
        ids = mapped(tokens, f"<u{size}")
        edges = np.concatenate([[0], mapped(index, "<u8")]).astype(np.int64)
        if int(edges[-1]) != len(ids) or (np.diff(edges) < 0).any():
            raise InputError(
                f"{index} ends at {int(edges[-1]):,} and {tokens} has {len(ids):,} ids of {size} "
                "bytes; expected ascending ends up to that number."
            )
        if count is not None and count != len(ids):
            raise InputError(
                f"{metadata} says that there are {count:,} tokens, and {tokens} has {len(ids):,}; "
                "expected the metadata that were written with it."
            )
        in_order(ids, edges, writer, moved)


def _told(metadata: Path) -> tuple[int, int | None]:
    """Bytes per id and the number of ids, from the metadata; 2 and None without metadata.

    The lines are `TOKENIZER|BYTES`, the number of tokens, and that number for people. Older
    metadata have only the tokenizer in the first line, and ids of 2 bytes. The name of a tokenizer
    may be in any encoding.
    """
    try:
        lines = metadata.read_bytes().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return 2, None
    except OSError as error:
        raise InputError(f"cannot read {metadata}: {error.strerror}.") from error
    _, bar, size = lines[0].rpartition("|") if lines else ("", "", "")
    if bar and size not in ("2", "4"):
        raise InputError(f"{metadata} says that ids have {size!r} bytes; expected 2 or 4.")
    if len(lines) < 2:
        return int(size) if bar else 2, None
    if not (lines[1].strip().isdecimal() and len(lines[1]) < AT_MOST):
        raise InputError(
            f"{metadata} says {lines[1]!r:.80} in its second line; expected a number of tokens."
        )
    return int(size) if bar else 2, int(lines[1])


def _short(count: int) -> str:
    """A number of tokens as the metadata show it to people."""
    value, unit = float(count), ""
    for larger in ("k", "M", "G", "T"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}T"
