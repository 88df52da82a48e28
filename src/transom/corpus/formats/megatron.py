"""Megatron's `.bin` and `.idx`: ids, and where sequences and documents are among them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.corpus.formats.base import Format, Moved, mapped
from transom.corpus.reader import CorpusReader
from transom.corpus.writer import CorpusWriter
from transom.errors import InputError
from transom.outputs import output
from transom.tokens import TokenIds

__all__ = ["AT_ONCE", "Megatron", "in_order"]

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")  # magic, version, code of the dtype, sequences, documents + 1
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # by the code in the header
AT_ONCE = 1 << 20


class Megatron(Format):
    """The indexed dataset of Megatron-LM and NeMo, written with one sequence per document.

    It also reads files whose documents have several sequences, and sequences in any order.
    """

    name: ClassVar[str] = "megatron"
    summary: ClassVar[str] = "Megatron-LM's .bin and .idx"

    def files(self, out: Path) -> list[Path]:
        stem = out.name.removesuffix(".bin").removesuffix(".idx")
        return [out.with_name(f"{stem}.bin"), out.with_name(f"{stem}.idx")]

    def write(
        self, corpus: CorpusReader, out: Path, *, separator: int | None = None, moved: Moved
    ) -> None:
        lengths = np.diff(corpus.edges)
        if len(lengths) and int(lengths.max()) > np.iinfo(np.int32).max:
            raise InputError(
                f"megatron: document {int(lengths.argmax()):,} has {int(lengths.max()):,} tokens, "
                "and the format holds 2,147,483,647; expected shorter documents."
            )
        code = next(code for code, dtype in DTYPES.items() if np.dtype(dtype) == corpus.dtype)
        binary, index = self.files(out)
        with output(index) as file, output(binary) as tokens:
            file.write(HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1))
            file.write(lengths.astype("<i4").data)
            file.write((corpus.edges[:-1] * corpus.dtype.itemsize).astype("<i8").data)
            file.write(np.arange(len(lengths) + 1, dtype="<i8").data)
            file.flush()  # Find a full disk before the ids replace an older file.
            for ids in corpus.pieces(AT_ONCE):
                tokens.write(ids.data)
                moved(len(ids))

    def read(
        self, source: Path, writer: CorpusWriter, *, separator: int | None = None, moved: Moved
    ) -> None:
        binary, index = self.files(source)
        try:
            with index.open("rb") as file:
                header = HEADER.unpack(file.read(HEADER.size))
        except OSError as error:
            raise InputError(f"cannot read {index}: {error.strerror}.") from error
        except struct.error as error:
            raise InputError(
                f"{index} is too short; expected the {HEADER.size} bytes of Megatron's header."
            ) from error
        magic, version, code, sequences, edges = header
        if magic != MAGIC or version != VERSION or code not in DTYPES:
            raise InputError(
                f"{index} is no index of whole numbers (it starts with {magic!r}, version "
                f"{version}, dtype {code}); expected Megatron's, of version {VERSION}."
            )
        dtype = np.dtype(DTYPES[code])
        at = HEADER.size
        lengths = mapped(index, "<i4", at, sequences).astype(np.int64)
        pointers = mapped(index, "<i8", at + 4 * sequences, sequences)
        starts = pointers // dtype.itemsize
        firsts = mapped(index, "<i8", at + 12 * sequences, edges)
        ids = mapped(binary, dtype)
        if rest := index.stat().st_size - at - 12 * sequences - 8 * edges:
            raise InputError(
                f"{index} has {rest:,} bytes more than its sequences take, such as the modes of a "
                "multimodal data set, which a corpus does not keep; expected none."
            )
        if (
            len(firsts) < 1
            or int(firsts[0]) != 0
            or int(firsts[-1]) != sequences
            or (np.diff(firsts) < 0).any()
            or (lengths < 0).any()
            or (starts < 0).any()
            or (pointers % dtype.itemsize).any()
            or (starts > len(ids) - lengths).any()
        ):
            raise InputError(
                f"{index} names sequences that are not in {binary}, or that start inside an id; "
                "expected the index that was written with it."
            )
        if (named := int(lengths.sum())) != len(ids):
            raise InputError(
                f"{binary} has {len(ids):,} ids, and the sequences in {index} have {named:,}; "
                "expected the index that was written with it."
            )
        order = np.lexsort((lengths, starts))
        if (starts[order][1:] < (starts + lengths)[order][:-1]).any():
            raise InputError(
                f"{index} names sequences that share ids of {binary} and leave others out; "
                "expected the index that was written with it."
            )
        stops = np.concatenate([[0], np.cumsum(lengths)])
        if np.array_equal(starts, stops[:-1]):
            in_order(ids, stops[firsts], writer, moved)
            return
        for first, last in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
            for sequence in range(first, last):
                start = int(starts[sequence])
                writer.add_tokens(ids[start : start + int(lengths[sequence])])
                moved(int(lengths[sequence]))
            writer.end_document()


def in_order(ids: TokenIds, edges: NDArray[np.int64], writer: CorpusWriter, moved: Moved) -> None:
    """Add documents that follow each other in `ids`, many at a time."""
    ends = edges[1:]
    for at in range(0, int(edges[-1]), AT_ONCE):
        piece = ids[at : min(at + AT_ONCE, int(edges[-1]))]
        # An end after the last id of this piece belongs to it, one before its first id does not.
        here = ends[np.searchsorted(ends, at, "right" if at else "left") :]
        here = here[: np.searchsorted(here, at + len(piece), "right")]
        writer.add_tokens(piece, documents=here - at)
        moved(len(piece))
    for _ in range(len(ends) if not int(edges[-1]) else 0):
        writer.end_document()
