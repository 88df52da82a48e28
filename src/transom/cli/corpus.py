"""`transom corpus`: token ids of many texts in a folder; built, appended to, checked, exported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from transom.cli.bars import Bars
from transom.cli.compare import INTERRUPTED
from transom.cli.interrupt import Interrupt
from transom.cli.tables import plain_size, print_table, result_console
from transom.corpus import Done, TokenCorpus, Watch, append_files, build, verify
from transom.corpus.build import Engine
from transom.corpus.formats import formats, write_format
from transom.corpus.job import inputs_of
from transom.errors import InputError
from transom.tokens.backends import Backend, backends, choose_backend
from transom.tokens.files import sample

__all__ = ["app"]

REFERENCE = "tokenizers"

ENGINES = ("local", "ray")
DAMAGED = 1  # exit status of `verify` when something is wrong

app = typer.Typer(
    name="corpus",
    help="Token ids of any number of texts, memory-mapped: build, append, check, export.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The corpus.")]
Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help=".txt, .jsonl, .jsonl.zst or .parquet.")
]
Workers = Annotated[
    int, typer.Option(metavar="N", help="How many threads, or workers of Ray, tokenize.", min=1)
]
Library = Annotated[
    str, typer.Option("--backend", metavar="NAME", help=f"What tokenizes: {', '.join(backends())}.")
]
EngineName = Annotated[
    str, typer.Option("--engine", metavar="NAME", help=f"What does the work: {', '.join(ENGINES)}.")
]
Field = Annotated[str, typer.Option(metavar="NAME", help="Key or column that holds the text.")]


@app.command("build")
def build_command(
    folder: Folder,
    files: Files,
    tokenizer: Annotated[
        str, typer.Option(metavar="NAME", help="Alias, folder, tokenizer.json or hub id.")
    ] = "smollm2",
    workers: Workers = 1,
    backend: Library = REFERENCE,
    engine: EngineName = "local",
    field: Field = "text",
) -> None:
    """Make a corpus of texts.

    A .txt file is one document, the others have one per row. Ctrl-C stops at the end of a
    document, a second one at once. Run the same command again to go on after that, or after
    anything else that stopped it: nothing is lost and nothing is there twice.
    """
    by = _engine(engine, workers, backend)
    encoder, library = _tokenizer(tokenizer, backend if by is None else REFERENCE, files, field)
    _run(
        folder,
        lambda watch: build(
            folder,
            files,
            encoder,
            name=tokenizer,
            workers=workers,
            field=field,
            backend=library,
            engine=by,
            watch=watch,
        ),
    )


@app.command("append")
def append_command(
    folder: Folder,
    files: Files,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="By default that of the corpus.")
    ] = None,
    workers: Workers = 1,
    backend: Library = REFERENCE,
    engine: EngineName = "local",
    field: Field = "text",
    again: Annotated[
        bool, typer.Option("--again", help="Also files that are in the corpus already.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Leave what was cut short as it is.")
    ] = False,
) -> None:
    """Add texts to a corpus; readers see them once they are committed.

    Stopping and going on is as for `build`.
    """
    name = tokenizer or TokenCorpus.open(folder).manifest.tokenizer
    if not name:
        raise InputError(f"{folder} does not say which tokenizer it is of; expected --tokenizer.")
    by = _engine(engine, workers, backend)
    encoder, library = _tokenizer(name, backend if by is None else REFERENCE, files, field)
    _run(
        folder,
        lambda watch: append_files(
            folder,
            files,
            encoder,
            workers=workers,
            field=field,
            again=again,
            forget=forget,
            backend=library,
            engine=by,
            watch=watch,
        ),
    )


@app.command("info")
def info_command(folder: Folder) -> None:
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


@app.command("verify")
def verify_command(folder: Folder) -> None:
    """Read everything and compare it with what was committed.

    Names each damaged block, and exits with 1 if there is one.
    """
    manifest = TokenCorpus.open(folder).manifest
    total = sum(file.bytes for file in manifest.files)
    began = perf_counter()
    damaged = read = 0
    with Bars() as bars:
        move = bars.start(str(folder), max(1, total))

        def moved(name: str, size: int) -> None:
            nonlocal read
            read += size
            move(read, f"{read / 1e6 / (perf_counter() - began):,.0f} MB/s {name}")

        for damage in verify(folder, moved):
            damaged += 1
            print(damage)
    seconds = perf_counter() - began
    speed = f"{plain_size(total)} in {seconds:,.1f} s ({plain_size(int(total / seconds))}/s)"
    if damaged:
        print(f"{folder} is damaged in {damaged:,} places; read {speed}")
        raise typer.Exit(DAMAGED)
    print(f"{folder} is as it was committed: {manifest.tokens:,} tokens; read {speed}")


@app.command("export")
def export_command(
    folder: Folder,
    out: Annotated[
        Path, typer.Argument(metavar="PATH", help="Name of the file, or a folder to put it into.")
    ],
    to: Annotated[str, typer.Option(metavar="FORMAT", help=f"{', '.join(formats())}.")],
    separator: Annotated[
        int | None,
        typer.Option(metavar="ID", help="Put after each document, where ends are not kept."),
    ] = None,
) -> None:
    """Write a corpus as files of another program."""
    corpus = TokenCorpus.open(folder)
    began = perf_counter()
    if str(out).endswith("/"):
        out.mkdir(parents=True, exist_ok=True)
    with Bars() as bars:
        move = bars.start(str(out), max(1, corpus.tokens))
        written = 0

        def moved(tokens: int) -> None:
            nonlocal written
            written += tokens
            move(written, f"{written / (perf_counter() - began):,.0f} tokens/s")

        try:
            paths = write_format(corpus, to, out, separator=separator, moved=moved)
        except KeyboardInterrupt:
            print("interrupted; nothing was written", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    for path in paths:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        print(f"{path} ({plain_size(sum(file.stat().st_size for file in files))})")


def _engine(name: str, workers: int, backend: str) -> Engine | None:
    """What is to do the work; None for this process."""
    if name not in ENGINES:
        raise InputError(f"--engine is {name!r}; expected one of {', '.join(ENGINES)}.")
    if name == "local":
        return None
    if backend not in ("auto", REFERENCE):
        raise InputError(f"--backend is {backend!r}; Ray's workers use {REFERENCE}.")
    from transom.corpus.ray import RayEngine

    return RayEngine(workers=workers)


def _tokenizer(name: str, backend: str, files: list[str], field: str) -> tuple[Any, Backend]:
    """The tokenizer called `name`, and the library that is to carry it out."""
    from transom.models import load_tokenizer

    inputs_of(files)  # before anything that takes its time
    tokenizer = load_tokenizer(name, report=lambda line: print(line, file=sys.stderr))
    choice = choose_backend(tokenizer, sample(files, field=field), backend)
    print(f"tokenizing with {choice.why}")
    return tokenizer, choice.backend


def _run(folder: Path, work: Callable[[Watch], Done]) -> None:
    """Do it under a bar, and sum up what was done."""
    began = perf_counter()
    done: Done | None = None
    try:
        with Interrupt() as interrupt, Bars() as bars:
            move: Callable[[int, str], None] | None = None
            told: list[str] = []

            def moved(now: Done) -> None:
                nonlocal move, done
                if move is None:
                    move = bars.start(str(folder), max(1, now.size))
                done = now
                if interrupt.requested and not told:
                    told.append("stopping where the document ends; Ctrl-C again stops at once")
                    print(*told, file=sys.stderr)
                move(now.read, _figures(now, perf_counter() - began))

            done = work(Watch(moved, lambda: interrupt.requested))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _summary(folder, done, perf_counter() - began)
    if not done.complete:
        print("stopped; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _figures(now: Done, seconds: float) -> str:
    left = (now.size - now.read) * seconds / max(1, now.read)
    return (
        f"{now.files:,}/{now.inputs:,} files, {now.read / 1e6 / seconds:,.1f} MB/s, "
        f"{now.tokens / seconds:,.0f} tokens/s, {left // 60:.0f}:{left % 60:02.0f} left"
    )


def _summary(folder: Path, done: Done, seconds: float) -> None:
    console = result_console()
    if done.complete and not done.documents:
        console.print(f"{folder}: nothing was left to do")
    corpus = TokenCorpus.open(folder)
    print_table(
        console,
        "",
        ("files", "documents", "tokens", "read", "MB/s", "tokens/s", "there before", "in all"),
        [
            (
                f"{done.files:,} of {done.inputs:,}",
                f"{done.documents:,}",
                f"{done.tokens:,}",
                plain_size(done.read),
                f"{done.read / 1e6 / seconds:,.1f}",
                f"{done.tokens / seconds:,.0f}",
                f"{done.resumed:,} documents" if done.resumed else "-",
                f"{corpus.tokens:,} tokens",
            )
        ],
        left=0,
    )
    console.print(f"{folder} ({plain_size(corpus.nbytes)})", soft_wrap=True)
