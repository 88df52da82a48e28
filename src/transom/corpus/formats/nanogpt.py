"""nanoGPT's `.bin`: ids of two bytes, one after the other, and nothing else."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from transom.corpus.formats.base import Format, Moved, mapped
from transom.errors import InputError
from transom.outputs import output

if TYPE_CHECKING:
    from transom.corpus.corpus import TokenCorpus
    from transom.corpus.writer import CorpusWriter

__all__ = ["NanoGPT"]

DTYPE = np.dtype("<u2")
AT_ONCE = 1 << 20


class NanoGPT(Format):
    """A file in which a separator stands after each document, as its `prepare.py` scripts do it.

    Without a separator, a corpus of one document can be written, and a file is read as one.
    """

    name: ClassVar[str] = "nanogpt"
    summary: ClassVar[str] = "nanoGPT's .bin: 2-byte ids, documents ended by a separator"

    def files(self, out: Path) -> list[Path]:
        return [out if out.suffix == ".bin" else out.with_name(out.name + ".bin")]

    def write(
        self, corpus: TokenCorpus, out: Path, *, separator: int | None = None, moved: Moved
    ) -> None:
        highest = max(corpus.manifest.vocab_size - 1, separator or 0)
        if highest > np.iinfo(DTYPE).max:
            raise InputError(
                f"nanogpt: ids go up to {highest:,}, and the format holds 65,535; expected "
                "another format, e.g. megatron."
            )
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
                    # Ends within this piece; one at its start ends the piece before.
                    ends = corpus.edges[1 + first : 1 + last] - at
                    ids = np.insert(ids, ends, separator)
                file.write(ids.astype(DTYPE).data)
            if separator is not None:
                left = corpus.documents - int(np.searchsorted(corpus.edges[1:], corpus.tokens))
                file.write(np.full(left, separator, dtype=DTYPE).data)

    def read(
        self, source: Path, writer: CorpusWriter, *, separator: int | None = None, moved: Moved
    ) -> None:
        ids = mapped(self.files(source)[0], DTYPE)
        ended = True
        for at in range(0, len(ids), AT_ONCE):
            piece = ids[at : at + AT_ONCE]
            if separator is None:
                writer.add_tokens(piece)
            else:
                places = np.flatnonzero(piece == separator)
                writer.add_tokens(
                    np.delete(piece, places), documents=places - np.arange(len(places))
                )
            ended = separator is not None and piece[-1] == separator
            moved(len(piece))
        if not ended:
            writer.end_document()
