"""nanoGPT's `.bin`: 2-byte ids, and nothing else."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import ClassVar

import numpy as np

from transom.corpus.formats.base import Format, Moved, mapped
from transom.corpus.reader import CorpusReader
from transom.corpus.writer import CorpusWriter
from transom.errors import InputError
from transom.outputs import output
from transom.tokens import TokenIds

__all__ = ["NanoGPT"]

DTYPE = np.dtype("<u2")
AT_ONCE = 1 << 20
WIDE = 32  # if every other one of so many numbers is 0, that is no coincidence
HIGH, LOW = 3, 1 << 14  # bounds of the upper and lower halves of larger ids
HEADER_WORDS = 256  # of 4 bytes, in the header of llm.c: a date as magic number, version, count
STARTS = {
    b"\x93NUMPY": "an array of numpy; write its ids with tofile",
    b"PK\x03\x04": "a zip archive, as torch.save and numpy.savez write them",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": "a file of torch.save; write its ids with tofile",
}


class NanoGPT(Format):
    """A file with a separator after each document, as nanoGPT's `prepare.py` scripts write it.

    Without a separator, only a corpus of one document can be written, and a file is read as one
    document. When a file starts with the separator and does not end with it, the separator is
    taken to stand before each document, as scripts for llm.c write it.
    """

    name: ClassVar[str] = "nanogpt"
    summary: ClassVar[str] = "nanoGPT's .bin: 2-byte ids, documents ended by a separator"
    separated: ClassVar[bool] = True

    def files(self, out: Path) -> list[Path]:
        return [out if out.suffix == ".bin" else out.with_name(out.name + ".bin")]

    def write(
        self, corpus: CorpusReader, out: Path, *, separator: int | None = None, moved: Moved
    ) -> None:
        _check_vocabulary(corpus.manifest.vocab_size)
        if separator is None and corpus.documents > 1:
            raise InputError(
                f"nanogpt: the format keeps no ends of documents, and there are "
                f"{corpus.documents:,}; expected a separator, which is put after each of them."
            )
        with output(self.files(out)[0]) as file:
            for at, ids in zip(count(step=AT_ONCE), corpus.pieces(AT_ONCE), strict=False):
                moved(len(ids))
                if separator is not None:
                    if (ids == separator).any():
                        place = at + int(np.argmax(ids == separator))
                        number = int(np.searchsorted(corpus.edges, place, side="right")) - 1
                        raise InputError(
                            f"nanogpt: document {number:,} has the separator {separator} in it; "
                            "expected an id that is in no document."
                        )
                    first, last = np.searchsorted(corpus.edges[1:], (at, at + len(ids)), "left")
                    # Ends within this piece; an end at its start belongs to the piece before.
                    ends = corpus.edges[1 + first : 1 + last] - at
                    ids = np.insert(ids, ends, separator)
                file.write(ids.astype(DTYPE).data)
            if separator is not None:
                left = corpus.documents - int(np.searchsorted(corpus.edges[1:], corpus.tokens))
                file.write(np.full(left, separator, dtype=DTYPE).data)

    def read(
        self, source: Path, writer: CorpusWriter, *, separator: int | None = None, moved: Moved
    ) -> None:
        _check_vocabulary(writer.committed.vocab_size)
        path = source if source.is_file() else self.files(source)[0]
        ids = mapped(path, DTYPE)
        _check_start(path, ids)
        ended = True
        found = 0
        if separator is not None and len(ids) and ids[0] == separator != ids[-1]:
            ids, found = ids[1:], 1
        for at in range(0, len(ids), AT_ONCE):
            piece = ids[at : at + AT_ONCE]
            if separator is None:
                writer.add_tokens(piece)
            else:
                places = np.flatnonzero(piece == separator)
                found += len(places)
                writer.add_tokens(
                    np.delete(piece, places), documents=places - np.arange(len(places))
                )
            ended = separator is not None and piece[-1] == separator
            moved(len(piece))
        if separator is not None and len(ids) and not found:
            raise InputError(
                f"nanogpt: {path} has no id {separator} in it; expected the separator that ends "
                "its documents, or none to read it as one document."
            )
        if not ended:
            writer.end_document()


def _check_vocabulary(size: int) -> None:
    if size - 1 > np.iinfo(DTYPE).max:
        raise InputError(
            f"nanogpt: ids go up to {size - 1:,}, and the format holds 65,535; expected "
            "another format, e.g. megatron."
        )


def _check_start(path: Path, ids: TokenIds) -> None:
    """Refuse other kinds of files named .bin, which would also read as 2-byte numbers.

    Raises:
        InputError: when the first bytes are those of another kind.
    """
    start = ids[: 2 * HEADER_WORDS].tobytes()
    what = next((name for magic, name in STARTS.items() if start.startswith(magic)), None)
    words = np.frombuffer(start[: len(start) // 4 * 4], "<i4")
    if len(words) == HEADER_WORDS and 20_000_000 < words[0] < 21_000_000 and not words[3:].any():
        what = (
            f"a file of llm.c, which has a header of {4 * HEADER_WORDS:,} bytes (it starts with "
            f"{words[0]}); cut that off where its ids have 2 bytes"
        )
    low, high = ids[: 2 * HEADER_WORDS : 2], ids[1 : 2 * HEADER_WORDS : 2]
    if (
        len(ids) >= WIDE
        and low.any()
        and (not high.any() or (high.max() <= HIGH and low.max() > LOW))
    ):
        what = "a file of ids of 4 or 8 bytes; write them as uint16"
    if what is not None:
        raise InputError(f"nanogpt: {path} is {what}; expected ids of 2 bytes and nothing else.")
