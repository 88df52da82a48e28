"""`transom corpus build` and `append`: files of text into a corpus."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from transom.cli.compare import INTERRUPTED
from transom.cli.interrupt import Interrupt
from transom.cli.options import at_least, named
from transom.cli.progress import Bars
from transom.cli.tables import plain_size, print_table, result_console
from transom.corpus import Done, TokenCorpus, Watch, append_files
from transom.corpus import build as build_corpus
from transom.corpus.build import Engine, forget_job
from transom.corpus.job import inputs_of
from transom.errors import InputError
from transom.tokens.backends import Backend, backends, choose_backend
from transom.tokens.files import sample

__all__ = ["Folder", "append", "build"]

REFERENCE = "tokenizers"
ENGINES = ("local", "ray")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", parser=named, help="The corpus.")]
Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help=".txt, .jsonl, .json.gz, .parquet and more.")
]
Workers = Annotated[
    int,
    typer.Option(
        metavar="N", parser=at_least(1), help="How many threads, or workers of Ray, tokenize."
    ),
]
Library = Annotated[
    str, typer.Option("--backend", metavar="NAME", help=f"What tokenizes: {', '.join(backends())}.")
]
EngineName = Annotated[
    str, typer.Option("--engine", metavar="NAME", help=f"What does the work: {', '.join(ENGINES)}.")
]
Field = Annotated[str, typer.Option(metavar="NAME", help="Key or column that holds the text.")]


def build(
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
        lambda watch: build_corpus(
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


def append(
    folder: Folder,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="As for `build`.")
    ] = None,
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
        bool,
        typer.Option("--forget", help="Give up a run that was cut short; FILE is not needed."),
    ] = False,
) -> None:
    """Add texts to a corpus; readers see them once they are committed.

    Stopping and going on is as for `build`.
    """
    if not files:
        if not forget:
            raise InputError("no files were given; expected at least one, or --forget.")
        left = forget_job(folder)
        print(f"{folder}: {f'the {left} is left as it is' if left else 'nothing was unfinished'}")
        return
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
    print(f"tokenizing with {choice.why}", file=sys.stderr)
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
