"""`transom corpus build` and `append`: files of text into a corpus."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from transom.cli.exit_codes import INTERRUPTED
from transom.cli.interrupt import Interrupt
from transom.cli.options import FIELD, TOKENIZER, load_tokenizer
from transom.cli.progress import ProgressBars
from transom.cli.tables import print_table, result_console
from transom.cli.values import at_least, check_choice, named
from transom.corpus import Done, TokenCorpus, Watch, append_files
from transom.corpus import build as build_corpus
from transom.corpus.build import Engine, forget_job
from transom.corpus.job import inputs_of
from transom.errors import InputError
from transom.tokens.backends import Backend, backends, choose_backend
from transom.tokens.files import sample
from transom.units import plain_size

__all__ = ["Folder", "append", "build"]

REFERENCE = "tokenizers"
ENGINES = ("local", "ray")

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", parser=named, help="The folder of the corpus.")
]
Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="Read these: .txt, .jsonl, .json.gz, .parquet or more."),
]
Workers = Annotated[
    int,
    typer.Option(
        metavar="N", parser=at_least(1), help="Tokenize with N threads, or N workers of Ray."
    ),
]
Library = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", help=f"Tokenize with one of {', '.join(backends())}."
    ),
]
EngineName = Annotated[
    str,
    typer.Option("--engine", metavar="NAME", help="Work in this process (local), or on Ray (ray)."),
]


def build(
    folder: Folder,
    files: Files,
    tokenizer: TOKENIZER = "smollm2",
    workers: Workers = 1,
    backend: Library = REFERENCE,
    engine: EngineName = "local",
    field: FIELD = "text",
) -> None:
    """Make a corpus of texts.

    A .txt file is one document; other files have one document per row. Press Ctrl-C to stop at the
    end of a document, and again to stop at once. Run the same command again to go on, whatever
    stopped it: no text is lost, and none is added twice.
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
        list[str] | None, typer.Argument(metavar="FILE", help="Read these, as `build` does.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Tokenize with this. [default: that of the corpus]"),
    ] = None,
    workers: Workers = 1,
    backend: Library = REFERENCE,
    engine: EngineName = "local",
    field: FIELD = "text",
    again: Annotated[
        bool, typer.Option("--again", help="Also add files that the corpus already has.")
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Give up an unfinished run; needs no FILE."),
    ] = False,
) -> None:
    """Add texts to a corpus; readers see them once they are committed.

    Stops and goes on as `build` does.
    """
    if not files:
        if not forget:
            raise InputError("no files were given; expected at least one, or --forget.")
        left = forget_job(folder)
        print(f"{folder}: {f'the {left} is left as it is' if left else 'nothing was unfinished'}")
        return
    name = tokenizer or TokenCorpus.open(folder).manifest.tokenizer
    if not name:
        raise InputError(f"{folder} does not name its tokenizer; expected --tokenizer.")
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
    """The engine of that name; None for this process."""
    check_choice("--engine", name, ENGINES)
    if name == "local":
        return None
    if backend not in ("auto", REFERENCE):
        raise InputError(f"--backend is {backend!r}; Ray's workers use {REFERENCE}.")
    from transom.corpus.ray import RayEngine

    return RayEngine(workers=workers)


def _tokenizer(name: str, backend: str, files: list[str], field: str) -> tuple[Any, Backend]:
    """The tokenizer called `name`, and the library that runs it."""
    inputs_of(files)  # checked before anything slow
    tokenizer = load_tokenizer(name)
    choice = choose_backend(tokenizer, sample(files, field=field), backend)
    print(f"tokenizing with {choice.why}", file=sys.stderr)
    return tokenizer, choice.backend


def _run(folder: Path, work: Callable[[Watch], Done]) -> None:
    """Work under a progress bar, then print a summary."""
    began = perf_counter()
    done: Done | None = None
    try:
        with Interrupt() as interrupt, ProgressBars() as bars:
            move: Callable[[int, str], None] | None = None
            told: list[str] = []

            def moved(now: Done) -> None:
                nonlocal move, done
                if move is None:
                    move = bars.start(str(folder), max(1, now.size))
                done = now
                if interrupt.requested and not told:
                    told.append(
                        "stopping at the end of the document; press Ctrl-C again to stop at once"
                    )
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
