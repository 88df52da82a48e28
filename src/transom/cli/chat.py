"""`transom chat`: a conversation of any length, in a fixed window, that survives its process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from transom.cli.compare import INTERRUPTED
from transom.cli.conversation import Conversation
from transom.cli.options import (
    DEVICE,
    DTYPE,
    MAX_NEW_TOKENS,
    at_least,
    check_placement,
    load,
    named,
    number,
)
from transom.cli.repl import Talk
from transom.cli.session import Session
from transom.errors import InputError, StateError
from transom.models.load import require_torch
from transom.models.packaged import ALIASES
from transom.policies import Sinks, parse

__all__ = ["chat"]

MODEL = "smollm2"


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help=f"See `transom models`. [default: {MODEL}, or as saved]"
        ),
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=named, help="Keep the conversation in FILE, and go on from it."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help=f"Choose what to keep; see `transom policies`. [default: as saved, or {Sinks()}]",
        ),
    ] = None,
    dtype: DTYPE = None,
    device: DEVICE = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Begin with this system prompt.")
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="T", parser=number, help="Sample at this temperature; 0 takes the likeliest."
        ),
    ] = 0.0,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P", parser=number, help="Sample from the likeliest tokens that make up P."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", parser=at_least(0), help="Seed sampling: same N, same answers."),
    ] = None,
    max_new_tokens: MAX_NEW_TOKENS = 512,
) -> None:
    """Talk with a model, for as long as you like, in a fixed window.

    With --session the conversation is written to FILE after every turn, and goes on from there.
    Answers go to standard output, everything else to standard error. Where standard input is no
    terminal, each of its lines is a question. /help lists what else can be typed.
    """
    if sys.stdin is None:
        raise InputError("cannot read standard input: it is closed; expected questions there.")
    check_placement(dtype, device)
    settings = _settings(temperature, top_p, seed, max_new_tokens)
    wanted = None if policy is None else str(parse(policy))
    file = None if session is None else Session(session)
    talk = Talk(_conversation(model, file, wanted, system, dtype, device), settings)
    talk.introduce()
    ended = talk.at_terminal() if talk.typed else talk.through(_piped())
    talk.close()
    if not ended:
        raise typer.Exit(INTERRUPTED)


def _settings(
    temperature: float, top_p: float | None, seed: int | None, max_new_tokens: int
) -> dict[str, Any]:
    """Arguments of `Conversation.ask`, once they are known to make sense."""
    require_torch()
    import torch

    from transom.sampling import Sampler

    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed}
    Sampler(**sampling).start(torch.device("cpu"))
    return {**sampling, "max_new_tokens": max_new_tokens}


def _conversation(
    model: str | None,
    session: Session | None,
    policy: str | None,
    system: str | None,
    dtype: str | None,
    device: str | None,
) -> Conversation:
    """A new conversation, or the one in the file."""
    from transom.context import Context  # here, so that the terminal starts without torch

    saved = None if session is None else session.note
    name = model if model is not None else (saved or {}).get("model", MODEL)
    if saved and saved["turns"] and system not in (None, saved["system"]):
        raise StateError(
            f"{session and session.path} was saved with something else: the system prompt "
            f"{saved['system']!r} (here {system!r}). Expected the same, or none given."
        )
    if sys.stdin.isatty():
        print(f"loading {name} ...", file=sys.stderr)
    dtype = dtype or (saved or {}).get("dtype")
    loaded = load(name, dtype, device)
    if session is not None and saved is not None:
        context = session.load(loaded, policy)
        system = system if system is not None else saved.get("system")
    else:
        context = Context(loaded.model, loaded.tokenizer, policy or Sinks())
    return Conversation(context, _findable(name), dtype=dtype, system=system, session=session)


def _findable(name: str) -> str:
    """The name of a model, so that it also means the same from another folder."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in ALIASES and path.exists() else name


def _piped() -> Iterator[str]:
    """The lines of standard input that have something in them."""
    for at, line in enumerate(sys.stdin.buffer, 1):
        try:
            question = line.decode("utf-8-sig" if at == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(
                f"line {at:,} of standard input is not UTF-8 text (byte "
                f"{line[error.start]:#04x}); convert it first, e.g. with iconv -t UTF-8."
            ) from error
        if question:
            yield question
