"""`transom corpus`: token ids of many texts in a folder; built, appended to, checked, exported."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

import typer

from transom.cli.corpus_build import Folder, append, build
from transom.cli.exit_codes import DAMAGED
from transom.cli.interrupt import all_or_nothing
from transom.cli.progress import ProgressBars
from transom.cli.tables import result_console
from transom.cli.values import whole
from transom.corpus import TokenCorpus
from transom.corpus import verify as verify_corpus
from transom.corpus.formats import formats, write_format
from transom.units import plain_size

__all__ = ["app"]

app = typer.Typer(
    name="corpus",
    help="Keep the token ids of many texts in a memory-mapped folder.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command()(build)
app.command()(append)


@app.command()
def info(folder: Folder) -> None:
    """Show what a corpus holds."""
    corpus = TokenCorpus.open(folder)
    manifest = corpus.manifest
    sources = sum(1 for _ in corpus.sources())
    lines = {
        "tokens": f"{corpus.tokens:,}",
        "documents": f"{corpus.documents:,}",
        "tokens per document": f"{corpus.tokens / max(1, corpus.documents):,.1f}",
        "ids": f"{manifest.dtype}, below {manifest.vocab_size:,}",
        "tokenizer": manifest.tokenizer or "not known",
        "fingerprint": manifest.fingerprint or "not known",
        "shards": f"{len(manifest.shards):,}",
        "size": f"{corpus.nbytes:,} bytes ({plain_size(corpus.nbytes)})",
        "checksums": f"xxh3, one per {manifest.block_bytes:,} bytes",
        "files read": f"{sources:,}",
        "commits": f"{manifest.commit:,}",
    }
    if manifest.job is not None:
        job = manifest.job
        lines["unfinished"] = (
            f"{job['command']}: {job['done']:,} of {job['files']:,} files, and "
            f"{job['documents']:,} documents of the next"
        )
    console = result_console()
    width = max(map(len, lines))
    for name, value in lines.items():
        console.print(f"{name:{width}}  {value}", soft_wrap=True)


@app.command()
def verify(folder: Folder) -> None:
    """Read a whole corpus and compare it with its checksums.

    Names each damaged block. Exits with 1 if there is one.
    """
    manifest = TokenCorpus.open(folder).manifest
    total = sum(file.bytes for file in manifest.files)
    began = perf_counter()
    damaged = read = 0
    with ProgressBars() as bars:
        move = bars.start(str(folder), max(1, total))

        def moved(name: str, size: int) -> None:
            nonlocal read
            read += size
            move(read, f"{read / 1e6 / (perf_counter() - began):,.0f} MB/s {name}")

        for damage in verify_corpus(folder, moved):
            damaged += 1
            print(damage)
    seconds = perf_counter() - began
    speed = f"{plain_size(total)} in {seconds:,.1f} s ({plain_size(int(total / seconds))}/s)"
    if damaged:
        print(f"{folder} is damaged in {damaged:,} places; read {speed}")
        raise typer.Exit(DAMAGED)
    print(f"{folder} is as it was committed: {manifest.tokens:,} tokens; read {speed}")


@app.command()
def export(
    folder: Folder,
    out: Annotated[
        str,  # Not a Path, which would lose the slash at the end of a folder's name.
        typer.Argument(metavar="PATH", help="Write this file, or into this folder/."),
    ],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"Write one of {', '.join(formats())}.")
    ],
    separator: Annotated[
        int | None,
        typer.Option(
            metavar="ID",
            parser=whole,
            help="Put this id after each document, if the format keeps no ends of documents.",
        ),
    ] = None,
) -> None:
    """Write a corpus in the format of another program."""
    corpus = TokenCorpus.open(folder)
    began = perf_counter()
    with ProgressBars() as bars, all_or_nothing():
        move = bars.start(out, max(1, corpus.tokens))
        written = 0

        def moved(tokens: int) -> None:
            nonlocal written
            written += tokens
            move(written, f"{written / (perf_counter() - began):,.0f} tokens/s")

        paths = write_format(corpus, to, out, separator=separator, moved=moved)
    for path in paths:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        print(f"{path} ({plain_size(sum(file.stat().st_size for file in files))})")
