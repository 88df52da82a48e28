"""datatrove's `.ds`: ids, and beside them the ends of documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from transom.corpus.formats.base import Format, Moved, mapped
from transom.corpus.formats.megatron import AT_ONCE, in_order
from transom.errors import InputError
from transom.outputs import output

if TYPE_CHECKING:
    from transom.corpus.corpus import TokenCorpus
    from transom.corpus.writer import CorpusWriter

__all__ = ["Datatrove"]


class Datatrove(Format):
    """A `.ds` file of ids in 2 or 4 bytes, its `.index` of ends, and `.metadata` for people.

    How many bytes an id has is told by the metadata; 2 where there are none.
    """

    name: ClassVar[str] = "datatrove"
    summary: ClassVar[str] = "datatrove's .ds with .ds.index and .ds.metadata"

    def files(self, out: Path) -> list[Path]:
        tokens = out if out.suffix == ".ds" else out.with_name(out.name + ".ds")
        return [tokens, *(Path(f"{tokens}.{suffix}") for suffix in ("index", "metadata"))]

    def write(
        self, corpus: TokenCorpus, out: Path, *, separator: int | None = None, moved: Moved
    ) -> None:
        dtype = np.dtype("<u2" if corpus.manifest.vocab_size <= 1 << 16 else "<u4")
        tokens, index, metadata = self.files(out)
        with output(metadata) as about, output(index) as ends, output(tokens) as file:
            name = corpus.manifest.tokenizer or "Unknown Tokenizer"
            count = corpus.tokens
            about.write(
                f"{name}|{dtype.itemsize}\n{count}\n{_short(count)}".encode(
                    errors="surrogateescape"
                )
            )
            ends.write(corpus.edges[1:].astype("<u8").data)
            for ids in corpus.pieces(AT_ONCE):
                file.write(ids.astype(dtype).data)
                moved(len(ids))

    def read(
        self, source: Path, writer: CorpusWriter, *, separator: int | None = None, moved: Moved
    ) -> None:
        tokens, index, metadata = self.files(source)
        size = 2
        if metadata.exists():
            told = metadata.read_text(encoding="utf-8").partition("\n")[0].rpartition("|")[2]
            size = {"2": 2, "4": 4}.get(told, 2)
        ids = mapped(tokens, f"<u{size}")
        edges = np.concatenate([[0], mapped(index, "<u8")]).astype(np.int64)
        if int(edges[-1]) != len(ids) or (np.diff(edges) < 0).any():
            raise InputError(
                f"{index} ends at {int(edges[-1]):,} and {tokens} has {len(ids):,} ids of {size} "
                "bytes; expected ends that ascend to as many."
            )
        in_order(ids, edges, writer, moved)


def _short(count: int) -> str:
    """A number of tokens as the metadata tell it to people."""
    value, unit = float(count), ""
    for larger in ("k", "M", "G", "T"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}T"
