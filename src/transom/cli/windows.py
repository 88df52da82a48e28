"""`transom windows`: texts cut into model-ready windows, in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from transom.cli.interrupt import all_or_nothing
from transom.cli.options import FIELD, TOKENIZER, load_tokenizer, tokens_option
from transom.cli.progress import ProgressBars
from transom.cli.tables import print_table, result_console
from transom.cli.text import read_documents, size_of
from transom.cli.values import named, whole
from transom.errors import InputError
from transom.export import TableWriter, table_writer
from transom.outputs import check_target
from transom.tokens import Encoder
from transom.tokens.text import tokenize_text_with_offsets
from transom.units import plain_size
from transom.windows import Cut, SlidingWindow, TokenWindow

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["windows"]

ROWS = 1024  # windows written at a time


def windows(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT",
            help="Cut these UTF-8 texts; - for stdin. Each file is a document, or each row of a "
            ".jsonl or .parquet.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            parser=named,
            help="Write this .parquet, .arrow or .npy; without a suffix, a `datasets` folder.",
        ),
    ],
    tokenizer: TOKENIZER = "smollm2",
    size: Annotated[int, tokens_option("--size", help="Put N ids into a window.")] = 512,
    stride: Annotated[
        int | None,
        tokens_option("--stride", help="Start a window every N ids. [default: half of the size]"),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole,
            help="Share N ids with the window before; replaces --stride.",
        ),
    ] = None,
    field: FIELD = "text",
    bos: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Put this before the ids of each window.")
    ] = None,
    eos: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Put this after the ids of each window.")
    ] = None,
    pad_id: Annotated[
        int, typer.Option(metavar="ID", parser=whole, help="Pad windows with this id.")
    ] = 0,
    padding_side: Annotated[
        str, typer.Option(metavar="SIDE", help="Pad on the right or left.")
    ] = "right",
    drop_last: Annotated[
        bool, typer.Option("--drop-last", help="Leave out windows that are not full.")
    ] = False,
    packed: Annotated[
        bool, typer.Option("--packed", help="Let a window run from one text into the next.")
    ] = False,
) -> None:
    """Cut texts into overlapping windows of token ids.

    Writes a row per window, with these columns: input_ids; attention_mask; score_mask, which is 1
    once for every token except a text's first; document, the number of the text from 0; start, the
    position of the first token, counted over all texts; char_start and char_stop, characters in
    the text; and with --packed position_ids. For .npy, PATH holds input_ids, and files next to it
    hold the other columns.
    """
    sizes = [size_of(text) for text in texts]
    if out.suffix:  # Without one it is a folder. The writer refuses one that exists.
        check_target(out, *texts)
    with table_writer(out) as table:
        encoder = load_tokenizer(tokenizer)
        window = SlidingWindow(
            size,
            stride,
            overlap=overlap,
            pad_id=pad_id,
            padding_side=padding_side,  # type: ignore[arg-type]  # checked there
            drop_last=drop_last,
            bos_id=_id(encoder, "--bos", bos),
            eos_id=_id(encoder, "--eos", eos),
            packed=packed,
        )
        began = perf_counter()
        with all_or_nothing():
            made, real, scored = _write(table, window, encoder, texts, sizes, field)
    seconds = perf_counter() - began
    console = result_console()
    print_table(
        console,
        "",
        ("files", "tokens", "windows", "ids each", "stride", "padding", "scored", "tokens/s"),
        [
            (
                f"{len(texts):,}",
                f"{window.seen:,}",
                f"{made:,}",
                f"{size:,}",
                f"{window.cut.stride:,}",
                f"{1 - real / (made * size):.2%}",
                f"{scored:,}",
                f"{window.seen / seconds:,.0f}",
            )
        ],
        left=0,
    )
    for path in table.files:
        console.print(f"{path} ({plain_size(_size_on_disk(path))})", soft_wrap=True)


def _write(
    table: TableWriter,
    window: SlidingWindow,
    tokenizer: Tokenizer,
    texts: list[str],
    sizes: list[int],
    field: str,
) -> tuple[int, int, int]:
    """Write all windows. Returns how many windows, real ids and scored ids there are."""
    made = real = scored = 0
    empty: list[int] = []
    with ProgressBars() as bars:
        move = bars.start(str(table.path), max(1, sum(sizes)))
        before = accumulate(sizes[:-1], initial=0)
        files = zip(texts, before, strict=True)
        stream = _cut(window, Encoder(tokenizer), files, field, move, empty)
        for batch in iter(lambda: [*islice(stream, ROWS)], []):
            columns = _columns(window.cut, batch)
            columns["document"] += np.searchsorted(empty, columns["document"], side="right")
            table.write(columns)
            made += len(batch)
            real += int(columns["attention_mask"].sum())
            scored += int(columns["score_mask"].sum())
    if not window.seen:
        raise InputError("the tokenizer made no tokens of any text; expected at least one.")
    if not made:
        raise InputError(
            f"no window of {window.cut.size} ids is full, and --drop-last leaves out the others, "
            "so there is nothing to write; expected a smaller --size."
        )
    return made, real, scored


def _id(tokenizer: Tokenizer, option: str, token: str | None) -> int | None:
    if token is None:
        return None
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise InputError(
            f"{option} is {token!r}, for which the tokenizer has no id; expected one of its tokens."
        )
    return number


def _cut(
    window: SlidingWindow,
    encoder: Encoder,
    files: Iterable[tuple[str, int]],
    field: str,
    move: Callable[[int, str], None],
    empty: list[int],
) -> Iterator[TokenWindow]:
    """The windows of the texts, while these are read.

    Args:
        files: the name of each file, and the bytes of all files before it.
        empty: gets an entry for each row without tokens, which has no window and no number: the
            count of rows with tokens before it.
    """
    some = 0
    for file, before in files:
        for name, found in read_documents(file, field):
            seen, read = window.seen, before

            def pieces(
                found: Iterator[tuple[str, int]] = found, before: int = before
            ) -> Iterator[str]:
                nonlocal read
                for piece, at in found:
                    read = before + at
                    yield piece

            for ids, offsets in tokenize_text_with_offsets(encoder, pieces()):
                yield from window.feed(ids, offsets=offsets)
                move(read, f"{window.seen:,} tokens")
            if window.seen > seen:
                window.end_document()
                some += 1
            elif name != file:
                empty.append(some)
            else:
                raise InputError(f"the tokenizer made no tokens of {name}; expected at least one.")
    yield from window.flush()


def _columns(cut: Cut, batch: list[TokenWindow]) -> dict[str, np.ndarray]:
    real = np.stack([window.attention_mask for window in batch])
    offsets = np.stack([window.offsets for window in batch if window.offsets is not None])
    first = real.argmax(axis=1) + cut.lead
    last = first + real.sum(axis=1, dtype=np.int64) - (cut.size - cut.content) - 1
    rows = np.arange(len(batch))
    columns = {
        "input_ids": np.stack([window.ids for window in batch]).astype(np.int32),
        "attention_mask": real,
        "score_mask": np.stack([window.score_mask for window in batch]),
        "document": np.array([window.document for window in batch]),
        "start": np.array([window.start for window in batch]),
        "char_start": offsets[rows, first, 0],
        "char_stop": offsets[rows, last, 1],
    }
    if cut.packed:
        columns["position_ids"] = np.stack(
            [window.position_ids for window in batch if window.position_ids is not None]
        )
    return columns


def _size_on_disk(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
